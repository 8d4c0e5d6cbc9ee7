/**
 * For generated histories: the gate tries the same ones each time, so that what it says of a commit stays true; with `ROUNDS`
 * (`npm run test:full`) it is others each time.
 */
export const seed = process.env.ROUNDS === undefined ? { seed: 1 } : {}
