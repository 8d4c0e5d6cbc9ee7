import { openEmbeddedWorld } from './embedded.ts'
import { promisesOfAStore } from './promises.ts'

promisesOfAStore('the embedded store', openEmbeddedWorld)
