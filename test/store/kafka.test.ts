import { sharedKafka } from '../support/kafka.ts'
import { openKafkaWorld } from './kafka-world.ts'
import { promisesOfAStore } from './promises.ts'
import { modelOfStandings } from './standing-model.ts'
import { promisesOfStandings } from './standing-promises.ts'

const kafka = sharedKafka()
const openWorld = () => openKafkaWorld(kafka)
promisesOfAStore('the store on Kafka', openWorld, {
  orderOfStreams: false,
  givesSettledAgain: true,
  countsRunningInMemory: false,
  listsDone: false,
})
promisesOfStandings('the store on Kafka', openWorld)
modelOfStandings('the store on Kafka', openWorld, 0.3)
