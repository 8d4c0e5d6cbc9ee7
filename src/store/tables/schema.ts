import { type Database, int, single } from './database.ts'

/**
 * One step per version, never edited once released. Positions grow, so rows are added at the right edge of each tree; no
 * index has a random key, which would cost a page of its own per event.
 */
const migrations: readonly string[] = [
  `
  CREATE TABLE meta(key TEXT PRIMARY KEY, number INTEGER, bytes BLOB) WITHOUT ROWID;

  -- Small numbers for what repeats: rules, lanes, streams, revisions, reasons, outcomes.
  CREATE TABLE names(kind TEXT, id INTEGER, text TEXT NOT NULL, PRIMARY KEY(kind, id)) WITHOUT ROWID;

  -- h: 53 bits of hash of the producer's meta.id, 0 where there is none.
  CREATE TABLE events(
    pos INTEGER PRIMARY KEY, h INTEGER NOT NULL, stream INTEGER NOT NULL, accepted INTEGER NOT NULL, payload BLOB NOT NULL
  );

  -- Live work and journal in one. state: as in the contract, and 4 for a waiting one that is parked.
  -- began, ms, status: the last call, where it was ok and ended the delivery; all others are in attempts.
  CREATE TABLE deliveries(
    pos INTEGER, rule INTEGER, lane INTEGER NOT NULL, state INTEGER NOT NULL, reason INTEGER NOT NULL, until INTEGER,
    at INTEGER NOT NULL, revision INTEGER NOT NULL, failures INTEGER NOT NULL, first_at INTEGER NOT NULL,
    finished INTEGER NOT NULL, refused INTEGER NOT NULL, claimed INTEGER NOT NULL,
    began INTEGER, ms INTEGER, status INTEGER,
    PRIMARY KEY(pos, rule)
  ) WITHOUT ROWID;
  CREATE INDEX waiting ON deliveries(lane, until, pos, rule, reason) WHERE state = 0;
  CREATE INDEX unfinished ON deliveries(rule, state, pos) WHERE state <> 2;
  CREATE INDEX by_rule ON deliveries(rule, pos);

  CREATE TABLE attempts(
    pos INTEGER, rule INTEGER, n INTEGER, at INTEGER NOT NULL, ms INTEGER NOT NULL, status INTEGER NOT NULL,
    outcome INTEGER NOT NULL, request INTEGER NOT NULL, note TEXT NOT NULL,
    PRIMARY KEY(pos, rule, n)
  ) WITHOUT ROWID;

  -- What dead and parked deliveries hold. answer: JSON.
  CREATE TABLE letters(
    pos INTEGER, rule INTEGER, parked INTEGER NOT NULL, bytes INTEGER NOT NULL, answer TEXT, PRIMARY KEY(pos, rule)
  ) WITHOUT ROWID;
  CREATE INDEX letter_sizes ON letters(rule, parked, bytes);

  -- Deliveries that were running when the process died, and how often.
  CREATE TABLE suspects(pos INTEGER, rule INTEGER, stops INTEGER NOT NULL, PRIMARY KEY(pos, rule)) WITHOUT ROWID;

  -- The lookup by meta.id: sorted runs of hashes, written behind the log. A run without a row in runs is unfinished.
  CREATE TABLE ids(run INTEGER, h INTEGER, pos INTEGER, PRIMARY KEY(run, h, pos)) WITHOUT ROWID;
  CREATE TABLE runs(run INTEGER PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL);
  `,
  `
  -- How a delivery stands to others of its rule. turn: 0 the newest of its key, 1 the oldest. window: ms. time: of the root
  -- event. covered_by: the position of what it is a duplicate of. more: JSON.
  ALTER TABLE deliveries ADD COLUMN key TEXT;
  ALTER TABLE deliveries ADD COLUMN turn INTEGER;
  ALTER TABLE deliveries ADD COLUMN window INTEGER;
  ALTER TABLE deliveries ADD COLUMN signature TEXT;
  ALTER TABLE deliveries ADD COLUMN time INTEGER;
  ALTER TABLE deliveries ADD COLUMN covered_by INTEGER;
  ALTER TABLE deliveries ADD COLUMN more TEXT;
  CREATE INDEX keyed ON deliveries(rule, key, pos) WHERE key IS NOT NULL AND state < 2;
  CREATE INDEX covered ON deliveries(rule, covered_by, pos) WHERE covered_by IS NOT NULL;

  -- The newest start of a key, and its last success.
  CREATE TABLE starts(
    rule INTEGER, key TEXT, pos INTEGER NOT NULL, at INTEGER NOT NULL, ok_pos INTEGER, ok_h INTEGER, ok_at INTEGER,
    expires INTEGER NOT NULL, PRIMARY KEY(rule, key)
  ) WITHOUT ROWID;
  CREATE INDEX starts_expire ON starts(expires);

  -- Root events. alive: how many deliveries of it are neither dead nor discarded.
  CREATE TABLE roots(
    rule INTEGER, signature TEXT, time INTEGER, alive INTEGER NOT NULL, expires INTEGER NOT NULL,
    PRIMARY KEY(rule, signature, time)
  ) WITHOUT ROWID;
  CREATE INDEX roots_expire ON roots(expires);
  `,
]

/** Brings the file to the present version, one transaction per step. Refuses one written by a later version of us. */
export function migrate(database: Database, file: string): void {
  const found = int(single(database, 'PRAGMA user_version'))
  if (found > migrations.length) {
    throw new Error(
      `${file} was written by a later version (its format is ${found}, this one knows up to ${migrations.length}); run that version, or choose another folder`,
    )
  }
  for (const [index, sql] of migrations.entries()) {
    if (index < found) continue
    database.exec(`BEGIN IMMEDIATE; ${sql}; PRAGMA user_version = ${index + 1}; COMMIT`)
  }
}
