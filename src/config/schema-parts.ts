import Type from 'typebox'

/** What more than one part of the schema is made of. */

export const closed = { additionalProperties: false } as const

const secretWords = { title: 'a secret (text, { env: NAME } or { file: PATH })', writeOnly: true }

export const secret = (description: string) =>
  Type.Union(
    [
      Type.String({ minLength: 1, title: 'text that is not empty', writeOnly: true }),
      Type.Object(
        { env: Type.String({ minLength: 1, description: 'Name of an environment variable that holds the secret.' }) },
        closed,
      ),
      Type.Object(
        {
          file: Type.String({
            minLength: 1,
            description: 'Path of a file that holds the secret; a line break at its end is not part of it.',
          }),
        },
        closed,
      ),
    ],
    { ...secretWords, description },
  )
