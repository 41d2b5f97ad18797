// The store's own thread: a durable commit takes 0.2 ms, sometimes 3, and nobody else shall wait for it. What arrives
// as one message is one transaction, and it is answered when that is on disk.

import { closeSync, openSync } from 'node:fs';
import { DatabaseSync } from 'node:sqlite';
import { parentPort, workerData } from 'node:worker_threads';
import { reasonOf } from '../base/errors.ts';
import { createOperations, type Operations, prepareSchema } from './store-sql.ts';

export interface StoreCall {
  readonly name: keyof Operations;
  readonly args: readonly unknown[];
}

export type StoreAnswer = { readonly value: unknown } | { readonly failure: string };

/** What the worker says: first whether it has the store, then one list of answers for each list of calls. */
export type StoreMessage =
  | { readonly type: 'open' }
  | { readonly type: 'locked' }
  | { readonly type: 'broken'; readonly reason: string }
  | { readonly type: 'answers'; readonly answers: readonly StoreAnswer[] };

const sqliteBusy = 5;

/**
 * Opens the file and holds it: SQLite's exclusive mode takes a lock of the operating system, which ends with the
 * process, so that a second writer is refused and a killed one leaves nothing to clean up.
 */
function openDatabase(file: string): DatabaseSync {
  // Made by us first: SQLite would give it, and the log beside it, the mode that the umask leaves.
  closeSync(openSync(file, 'a', 0o600));
  const db = new DatabaseSync(file, { timeout: 0 });
  db.exec('PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL');
  db.exec('BEGIN IMMEDIATE');
  prepareSchema(db);
  db.exec('COMMIT');
  return db;
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
  try {
    db = openDatabase(String(workerData));
  } catch (error) {
    const busy = typeof error === 'object' && error !== null && 'errcode' in error && error.errcode === sqliteBusy;
    return say(busy ? { type: 'locked' } : { type: 'broken', reason: reasonOf(error) });
  }
  const operations = createOperations(db);
  port.on('message', (calls: readonly StoreCall[] | 'close') => {
    if (calls !== 'close') return say({ type: 'answers', answers: runBatch(db, operations, calls) });
    db.close();
    port.close();
  });
  say({ type: 'open' });
}

if (parentPort !== null) serve(parentPort);
