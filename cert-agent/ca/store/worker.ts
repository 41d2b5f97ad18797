// The store's own thread: a durable commit takes 0.2 ms, sometimes 3, and must not block the event loop. One message is
// one transaction, and the reply is sent when that is on disk.

import { closeSync, openSync, statSync } from 'node:fs';
import { DatabaseSync } from 'node:sqlite';
import { parentPort, workerData } from 'node:worker_threads';
import { errnoOf, reasonOf } from '../../base/errors.ts';
import { createOperations, createSchema, type Operations, prepareSchema, type SchemaState } from './sql.ts';

/** A call on its way to the worker; the arguments must survive structured cloning. */
export interface StoreCall {
  readonly name: keyof Operations;
  readonly args: readonly unknown[];
}

/** The answer to the call at the same place in the message. `failure` is a sentence for `store_failed`. */
export type StoreAnswer = { readonly value: unknown } | { readonly failure: string };

/** `create` makes a new store; only `ca init` and `--unsafe-new-store` use it, nothing automatic. */
export interface StorePlace {
  readonly file: string;
  readonly create: boolean;
  /** SHA-256 of the CA's roots, lower-case hex, its own first. */
  readonly roots: readonly string[];
}

/** Messages of the worker: first whether it has the store, then one list of replies for each list of calls. */
export type StoreMessage =
  | { readonly type: 'open' }
  | { readonly type: 'locked' | 'foreign' }
  | { readonly type: 'missing'; readonly reason: string }
  | { readonly type: 'broken'; readonly reason: string }
  | { readonly type: 'answers'; readonly answers: readonly StoreAnswer[] };

const sqliteBusy = 5;
const noTables = 'it has no tables of ours';

/**
 * Opens and locks the file. SQLite's exclusive mode takes an operating-system lock that ends with the process: a second
 * writer is refused, and a killed one leaves nothing to clean up.
 */
function openDatabase({ file, create, roots }: StorePlace): { db: DatabaseSync; state: SchemaState } {
  // We create the file first: SQLite would give it and its log the mode of the umask.
  if (create) closeSync(openSync(file, 'wx', 0o600));
  const db = new DatabaseSync(file, { timeout: 0 });
  db.exec('PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL');
  db.exec('BEGIN IMMEDIATE');
  const state = create ? createNew(db, roots) : prepareSchema(db, roots);
  db.exec('COMMIT');
  return { db, state };
}

function createNew(db: DatabaseSync, [root]: readonly string[]): SchemaState {
  if (root === undefined) throw new TypeError('a new store needs the root of its CA');
  createSchema(db, root);
  return 'ours';
}

/**
 * Why there is no store in `file`; undefined if there is one. Checked before SQLite opens it: SQLite would create a
 * missing file, and delete the log of a truncated one, from which an operator may still restore it.
 */
function whyMissing(file: string): string | undefined {
  try {
    return statSync(file).size === 0 ? 'it is empty' : undefined;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return 'it does not exist';
    throw error;
  }
}

function runBatch(db: DatabaseSync, operations: Operations, calls: readonly StoreCall[]): StoreAnswer[] {
  try {
    db.exec('BEGIN IMMEDIATE');
    const answers = calls.map((call) => (call.name === 'copyTo' ? undefined : runCall(db, operations, call)));
    db.exec('COMMIT');
    return calls.map((call, index) => answers[index] ?? copy(operations, call));
  } catch (error) {
    if (db.isTransaction) db.exec('ROLLBACK');
    return calls.map(() => ({ failure: reasonOf(error) }));
  }
}

/** After the commit: SQLite copies a store only outside of transactions. */
function copy(operations: Operations, { args }: StoreCall): StoreAnswer {
  try {
    return { value: operations.copyTo(String(args[0])) };
  } catch (error) {
    return { failure: reasonOf(error) };
  }
}

/** One savepoint per call: a failing call does not undo the others. */
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
