// The store's own thread: a durable commit takes 0.2 ms, sometimes 3, and nobody else shall wait for it. What arrives
// as one message is one transaction, and it is answered when that is on disk.

import { closeSync, openSync, statSync } from 'node:fs';
import { DatabaseSync } from 'node:sqlite';
import { parentPort, workerData } from 'node:worker_threads';
import { errnoOf, reasonOf } from '../../base/errors.ts';
import { createOperations, createSchema, type Operations, prepareSchema, type SchemaState } from './sql.ts';

export interface StoreCall {
  readonly name: keyof Operations;
  readonly args: readonly unknown[];
}

export type StoreAnswer = { readonly value: unknown } | { readonly failure: string };

/** `create` makes a store where there is none; it is done by `ca init` and by nothing that runs by itself. */
export interface StorePlace {
  readonly file: string;
  readonly create: boolean;
  /** SHA-256 of the CA's roots, lower-case hex, its own first. */
  readonly roots: readonly string[];
}

/** What the worker says: first whether it has the store, then one list of answers for each list of calls. */
export type StoreMessage =
  | { readonly type: 'open' }
  | { readonly type: 'locked' | 'foreign' }
  | { readonly type: 'missing'; readonly reason: string }
  | { readonly type: 'broken'; readonly reason: string }
  | { readonly type: 'answers'; readonly answers: readonly StoreAnswer[] };

const sqliteBusy = 5;
const noTables = 'it holds no tables of ours';

/**
 * Opens the file and holds it: SQLite's exclusive mode takes a lock of the operating system, which ends with the
 * process, so that a second writer is refused and a killed one leaves nothing to clean up.
 */
function openDatabase({ file, create, roots }: StorePlace): { db: DatabaseSync; state: SchemaState } {
  // Made by us first: SQLite would give it, and the log beside it, the mode that the umask leaves.
  if (create) closeSync(openSync(file, 'wx', 0o600));
  const db = new DatabaseSync(file, { timeout: 0 });
  db.exec('PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL');
  db.exec('BEGIN IMMEDIATE');
  const state = create ? createNew(db, roots) : prepareSchema(db, roots);
  db.exec('COMMIT');
  return { db, state };
}

function createNew(db: DatabaseSync, [root]: readonly string[]): SchemaState {
  if (root === undefined) throw new TypeError('a store is made for a CA, and that has a root');
  createSchema(db, root);
  return 'ours';
}

/**
 * Why there is no store in `file`; undefined when there is one. Asked before SQLite opens it: that would make a file
 * that is not there, and drop the log of one that was cut to nothing, from which it may yet be put together.
 */
function whyMissing(file: string): string | undefined {
  try {
    return statSync(file).size === 0 ? 'it is empty' : undefined;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return 'it is not there';
    throw error;
  }
}

function runBatch(db: DatabaseSync, operations: Operations, calls: readonly StoreCall[]): StoreAnswer[] {
  try {
    db.exec('BEGIN IMMEDIATE');
    const answers = calls.map((call) => runCall(db, operations, call));
    db.exec('COMMIT');
    return answers;
  } catch (error) {
    if (db.isTransaction) db.exec('ROLLBACK');
    return calls.map(() => ({ failure: reasonOf(error) }));
  }
}

/** A savepoint each: one call that fails takes nothing of its neighbours with it. */
function runCall(db: DatabaseSync, operations: Operations, { name, args }: StoreCall): StoreAnswer {
  db.exec('SAVEPOINT one');
  try {
    const run = operations[name] as (...given: readonly unknown[]) => unknown;
    return { value: run(...args) };
  } catch (error) {
    db.exec('ROLLBACK TO one');
    return { failure: reasonOf(error) };
  } finally {
    db.exec('RELEASE one');
  }
}

function serve(port: NonNullable<typeof parentPort>): void {
  const say = (message: StoreMessage): void => port.postMessage(message);
  let db: DatabaseSync;
  let operations: Operations;
  try {
    const place = workerData as StorePlace;
    const reason = place.create ? undefined : whyMissing(place.file);
    if (reason !== undefined) return say({ type: 'missing', reason });
    const opened = openDatabase(place);
    db = opened.db;
    if (opened.state !== 'ours') {
      db.close();
      return say(opened.state === 'foreign' ? { type: 'foreign' } : { type: 'missing', reason: noTables });
    }
    operations = createOperations(db);
  } catch (error) {
    const busy = typeof error === 'object' && error !== null && 'errcode' in error && error.errcode === sqliteBusy;
    if (busy) return say({ type: 'locked' });
    const reason = reasonOf(error);
    return say({ type: reason.startsWith('no such table') ? 'missing' : 'broken', reason });
  }
  port.on('message', (calls: readonly StoreCall[] | 'close') => {
    if (calls !== 'close') return say({ type: 'answers', answers: runBatch(db, operations, calls) });
    db.close();
    port.close();
  });
  say({ type: 'open' });
}

if (parentPort !== null) serve(parentPort);
