import { openEmbeddedWorld } from './embedded.ts'
import { promisesOfAStore } from './promises.ts'
import { modelOfStandings } from './standing-model.ts'
import { promisesOfStandings } from './standing-promises.ts'

promisesOfAStore('the embedded store', openEmbeddedWorld)
promisesOfStandings('the embedded store', openEmbeddedWorld)
modelOfStandings('the embedded store', openEmbeddedWorld)
