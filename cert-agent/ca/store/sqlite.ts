// The client side of the SQLite store. Calls of one event-loop turn go to the worker together and share one commit.
// Calls during that commit wait for the next one. So under load, many calls share one disk flush.

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { reasonOf, SallyportError } from '../../base/errors.ts';
import type { Operations } from './sql.ts';
import type { Store } from './store.ts';
import type { StoreAnswer, StoreCall, StoreMessage, StorePlace } from './worker.ts';

/** For metrics. */
export interface SqliteStoreOptions {
  /** Called after every commit with its duration and its number of calls. */
  readonly onCommit?: (ms: number, calls: number) => void;
}

interface Waiting {
  readonly call: StoreCall;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: SallyportError) => void;
}

/** The worker runs from the source or from the build; TypeScript does not rewrite a URL in a string. */
const workerUrl = new URL(import.meta.url.endsWith('.ts') ? './worker.ts' : './worker.js', import.meta.url);

/**
 * Opens the store in `file` for the CA with the root hashes (SHA-256) `roots`, and locks it until close().
 * @throws SallyportError `store_missing` when there is none, `store_foreign` when it belongs to another CA,
 * `ca_running` when another process holds it, `store_failed` when it cannot be opened. Then nothing is created and
 * nothing discarded.
 */
export async function openSqliteStore(
  file: string,
  roots: readonly string[],
  options: SqliteStoreOptions = {},
): Promise<Store> {
  return start({ file, create: false, roots }, options);
}

/**
 * Creates an empty store in `file` for the CA with the root hash (SHA-256) `root`. @throws SallyportError
 * `store_failed`.
 */
export async function createSqliteStore(file: string, root: string): Promise<void> {
  const store = await start({ file, create: true, roots: [root] }, {});
  await store.close();
}

async function start(place: StorePlace, options: SqliteStoreOptions): Promise<Store> {
  const { file } = place;
  // Suppresses Node's warning that node:sqlite is experimental.
  const worker = new Worker(workerUrl, { workerData: place, execArgv: ['--disable-warning=ExperimentalWarning'] });
  const [first] = (await Promise.race([
    once(worker, 'message'),
    once(worker, 'exit').then(() => [{ type: 'broken', reason: 'its thread ended' }]),
  ]).catch((error: unknown) => [{ type: 'broken', reason: reasonOf(error) }])) as [StoreMessage];
  if (first.type === 'open') return new SqliteStore(worker, options);
  await worker.terminate();
  if (first.type === 'locked') throw held(file);
  if (first.type === 'missing') throw missing(file, first.reason);
  if (first.type === 'foreign') {
    throw new SallyportError('store_foreign', `${file} is the store of another CA`, {
      hint: 'a store belongs to the CA that ca init created it for: restore both from the same backup',
    });
  }
  throw failed(
    file,
    first.type === 'broken' ? first.reason : 'unexpected reply',
    'if it is damaged, restore it from a backup',
  );
}

/** The error for a store that another process holds. */
export function held(file: string): SallyportError {
  return new SallyportError('ca_running', `another process holds ${file}`, {
    hint: 'a CA is running on this directory: reach it with --socket, or stop it first',
  });
}

/** Without its store a CA would deny nothing, and revoked workloads would renew: fails closed. */
function missing(file: string, reason: string): SallyportError {
  return new SallyportError('store_missing', `the store of the CA is lost: cannot use ${file}: ${reason}`, {
    hint: 'restore it from a backup; ca serve --unsafe-new-store creates a new one, which forgets every revocation',
  });
}

class SqliteStore implements Store {
  readonly #worker: Worker;
  readonly #onCommit: ((ms: number, calls: number) => void) | undefined;
  #queue: Waiting[] = [];
  #inFlight: readonly Waiting[] = [];
  #sentAt = 0;
  #scheduled = false;
  #broken: SallyportError | undefined;
  #trouble: string | undefined;
  #drained: (() => void) | undefined;

  readonly addToken = this.#operation('addToken');
  readonly findToken = this.#operation('findToken');
  readonly listTokens = this.#operation('listTokens');
  readonly removeToken = this.#operation('removeToken');
  readonly redeemToken = this.#operation('redeemToken');
  readonly recordCertificate = this.#operation('recordCertificate');
  readonly findCertificate = this.#operation('findCertificate');
  readonly listCertificates = this.#operation('listCertificates');
  readonly listLiveFamilies = this.#operation('listLiveFamilies');
  readonly lastEnd = this.#operation('lastEnd');
  readonly listIdentities = this.#operation('listIdentities');
  readonly countIdentities = this.#operation('countIdentities');
  readonly denySerial = this.#operation('denySerial');
  readonly denyId = this.#operation('denyId');
  readonly allowId = this.#operation('allowId');
  readonly denyList = this.#operation('denyList');
  readonly listDenials = this.#operation('listDenials');
  readonly listRevoked = this.#operation('listRevoked');
  readonly isKnownId = this.#operation('isKnownId');
  readonly listIds = this.#operation('listIds');
  readonly similarSerials = this.#operation('similarSerials');
  readonly allowDns = this.#operation('allowDns');
  readonly disallowDns = this.#operation('disallowDns');
  readonly listDns = this.#operation('listDns');
  readonly prune = this.#operation('prune');
  readonly adoptRoot = this.#operation('adoptRoot');
  readonly appendLedger = this.#operation('appendLedger');
  readonly ledgerEnd = this.#operation('ledgerEnd');
  readonly readLedger = this.#operation('readLedger');
  readonly firstInLedger = this.#operation('firstInLedger');
  readonly addLedgerHead = this.#operation('addLedgerHead');
  readonly ledgerHeads = this.#operation('ledgerHeads');
  readonly ledgerHeadUpTo = this.#operation('ledgerHeadUpTo');
  readonly firstOfLedger = this.#operation('firstOfLedger');
  readonly pruneLedger = this.#operation('pruneLedger');
  readonly copyTo = this.#operation('copyTo');
  readonly recordRestore = this.#operation('recordRestore');
  readonly probe = this.#operation('probe');

  constructor(worker: Worker, options: SqliteStoreOptions) {
    this.#worker = worker;
    this.#onCommit = options.onCommit;
    worker.on('message', (message: StoreMessage) => message.type === 'answers' && this.#settle(message.answers));
    worker.on('error', (error) => this.#break(failed('the store', reasonOf(error))));
    worker.on('exit', () => this.#break(failed('the store', 'its thread ended')));
  }

  trouble(): string | undefined {
    return this.#broken?.message ?? this.#trouble;
  }

  async close(): Promise<void> {
    if (this.#broken !== undefined) return;
    if (this.#queue.length + this.#inFlight.length > 0) {
      await new Promise<void>((resolve) => {
        this.#drained = resolve;
      });
    }
    const gone = once(this.#worker, 'exit');
    this.#worker.postMessage('close');
    await gone;
  }

  #operation<K extends keyof Operations>(name: K) {
    return (...args: Parameters<Operations[K]>): Promise<ReturnType<Operations[K]>> =>
      new Promise((resolve, reject) => {
        if (this.#broken !== undefined) return reject(this.#broken);
        const take = (value: unknown): void => resolve(value as ReturnType<Operations[K]>);
        this.#queue.push({ call: { name, args }, resolve: take, reject });
        this.#schedule();
      });
  }

  /** Runs at the end of the turn, so that all its calls go together; one commit at a time. */
  #schedule(): void {
    if (this.#scheduled || this.#inFlight.length > 0) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#send();
    });
  }

  #send(): void {
    if (this.#queue.length === 0 || this.#broken !== undefined) return;
    this.#inFlight = this.#queue;
    this.#queue = [];
    this.#sentAt = performance.now();
    this.#worker.postMessage(this.#inFlight.map((one) => one.call));
  }

  #settle(answers: readonly StoreAnswer[]): void {
    const batch = this.#inFlight;
    this.#inFlight = [];
    this.#onCommit?.(performance.now() - this.#sentAt, batch.length);
    for (const [index, waiting] of batch.entries()) {
      const answer = answers[index] ?? { failure: 'no reply' };
      if ('value' in answer) {
        // A successful read proves nothing about the disk.
        if (waiting.call.name === 'probe') this.#trouble = undefined;
        waiting.resolve(answer.value);
      } else {
        // A copy fails for its own disk.
        if (waiting.call.name !== 'copyTo') this.#trouble = answer.failure;
        waiting.reject(failed('the store', answer.failure));
      }
    }
    this.#send();
    if (this.#queue.length + this.#inFlight.length === 0) this.#drained?.();
  }

  /** Fails closed: without its thread the store no longer responds, and the CA issues nothing. */
  #break(error: SallyportError): void {
    if (this.#broken !== undefined) return;
    this.#broken = error;
    for (const waiting of [...this.#inFlight, ...this.#queue]) waiting.reject(error);
    this.#inFlight = [];
    this.#queue = [];
    this.#drained?.();
  }
}

function failed(what: string, reason: string, hint?: string): SallyportError {
  return new SallyportError('store_failed', `${what} failed: ${reason}`, hint === undefined ? {} : { hint });
}
