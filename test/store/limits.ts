const gib = 2 ** 30

export const manyBytes = { ageMs: 7 * 86_400_000, sizeBytes: gib, deadBytes: gib }
