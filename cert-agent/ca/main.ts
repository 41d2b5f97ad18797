// Wires the CA: directory and store, its own SVID, the listener for workloads, the socket for operators, and periodic
// upkeep. What is opened here is closed here, in reverse order.

import { existsSync, rmSync, statSync } from 'node:fs';
import { type ClusterOptions, createCluster } from '../attestation/cluster.ts';
import { type Address, formatAddress, parseAddress } from '../base/address.ts';
import { startAdmin } from '../base/admin.ts';
import { type Clock, formatDuration, formatTime, systemClock } from '../base/clock.ts';
import { reasonOf, SallyportError } from '../base/errors.ts';
import { createLog, type Log } from '../base/log.ts';
import { guardSecret } from '../base/secret-file.ts';
import { absolutePath } from '../base/write.ts';
import type { Presented } from '../identity/peer-chain.ts';
import { fingerprintOf } from '../identity/verify.ts';
import { Agents } from './agents.ts';
import { createRoutes, knownBy, publicRoutes } from './api.ts';
import { type Authority, openAuthority } from './authority.ts';
import { createBundleAnswer } from './bundle-answer.ts';
import { readRootFingerprints } from './certificates.ts';
import { caFilesOf, socketFileOf, storeFileOf } from './directory.ts';
import { createNameLog } from './dns/name-log.ts';
import { ownNames } from './dns/own-names.ts';
import { type IssueParts, longestLeafLifeMs, shortestLeafLifeMs } from './issue.ts';
import { formatCertificates } from './ledger/head.ts';
import { checkLedger, lastHeadFileOf, setLastHeadAside, writeLastHead } from './ledger/last-head.ts';
import { Ledger } from './ledger/ledger.ts';
import type { LedgerHead } from './ledger/table.ts';
import { type CaMetrics, createCaMetrics } from './metrics.ts';
import { whenFree } from './operator/open.ts';
import { createOperator, type Operator } from './operator/operator.ts';
import { operatorPages } from './operator/pages.ts';
import { createRecords } from './operator/records.ts';
import { answersAt } from './operator/socket.ts';
import { createOwnSvid, type OwnSvid, type OwnSvidParts } from './own-svid.ts';
import { CrlMaker, readRootCrls } from './revocation/crl.ts';
import { OcspResponder } from './revocation/ocsp.ts';
import { createRevocations, type Revocations } from './revocation/revoke.ts';
import { finishStep, previousTimes } from './rotation/files.ts';
import { Rotations } from './rotation/rotation.ts';
import { readState } from './rotation/state.ts';
import { type ServerLimits, startServer } from './server.ts';
import { createSqliteStore, held, openSqliteStore } from './store/sqlite.ts';
import { longestGraceMs, type Store } from './store/store.ts';

/** As `ca serve` takes them. The directory must have been created by `ca init`. */
export interface CaOptions {
  readonly dir: string;
  readonly listen: Extract<Address, { host: string }>;
  /** Also serves OCSP and CRL here, in plaintext: their responses are signed. */
  readonly ocsp?: Extract<Address, { host: string }>;
  /** What clients call the CA, beside what it listens on: DNS names and IP addresses for its certificate. */
  readonly names?: readonly string[];
  /** Path of the operator's socket; default `ca.sock` in `dir`. */
  readonly socket?: string;
  readonly passphrase?: string;
  /** Life of a leaf whose request does not set one, default 1 h. */
  readonly leafLifeMs?: number;
  readonly clock?: Clock;
  readonly log?: Log;
  readonly limits?: Partial<ServerLimits>;
  /** Creates a new store in place of a lost one: every certificate, token and revocation is forgotten. */
  readonly unsafeNewStore?: boolean;
  /** Goes on with a ledger that is not the one that the CA wrote; a record says so. */
  readonly acceptLedger?: boolean;
  /** How long after its expiry an SVID can be renewed, milliseconds: default 24 h, 0 for never. */
  readonly renewExpiredWithinMs?: number;
  /** How long records of the ledger are kept, milliseconds, at least 1 d: default for ever. */
  readonly ledgerKeepMs?: number;
  /** The Kubernetes cluster whose pods get SVIDs for their service accounts. */
  readonly cluster?: ClusterOptions;
  /** The version of the program, for the ledger. */
  readonly version?: string;
}

/** A CA that serves. `address` has the port that the system chose for port 0. */
export interface RunningCa {
  readonly address: Extract<Address, { host: string }>;
  readonly ocspAddress: Extract<Address, { host: string }> | undefined;
  readonly socket: string;
  readonly operator: Operator;
  /** Rotates and prunes what is due; also runs by itself every ten seconds. */
  upkeep(): Promise<void>;
  /** Finishes requests in flight, then closes everything. */
  close(): Promise<void>;
}

const defaultLeafLifeMs = 3_600_000;
const defaultGraceMs = 24 * 3_600_000;
const beatMs = 10_000;
const shortestKeepMs = 24 * 3_600_000;

/** From this time before its expiry, every start warns about the intermediate. */
const issuerWarningMs = 30 * 86_400_000;

/**
 * Starts the CA of `dir`.
 * @throws SallyportError `ca_missing`, `passphrase_wrong`, `secret_exposed`, `ca_running`, `store_missing`,
 * `store_foreign`, `ledger_behind`, `ledger_forked`, `port_in_use`, `issuer_expired`, `dns_name_invalid` and others that say why this directory cannot be served.
 */
export async function startCa(given: CaOptions): Promise<RunningCa> {
  const options = { ...given, dir: absolutePath(given.dir) };
  const { clock = systemClock, leafLifeMs = defaultLeafLifeMs, log = createLog({ component: 'ca' }) } = options;
  checkLeafLife(leafLifeMs);
  const { renewExpiredWithinMs: graceMs = defaultGraceMs } = options;
  checkGrace(graceMs);
  const names = await ownNames(options.listen.host, options.names);
  const { ledgerKeepMs: keepMs } = options;
  checkKeep(keepMs);
  // Not made absolute: socket paths have a length limit, and a relative one may be the one that fits.
  const socket = socketOf(given);
  guardKeys(options.dir, log);
  finishStep(options.dir);
  const authority = openAuthority(options.dir, options.passphrase, clock);
  warnOfEnd(authority, clock, log);
  const metrics = createCaMetrics();
  const store = await openStore(options, metrics, log);
  metrics.watch(store, authority, clock);
  try {
    const revocations = await createRevocations({ store, clock, trustDomain: authority.trustDomain });
    const onMissingNames = createNameLog(log);
    const parts = { authority, store, clock, defaultLifeMs: leafLifeMs, graceMs, names, onMissingNames };
    const accepted = await checkOrAccept(store, options, clock, log);
    const ledger = new Ledger({
      ...{ ...parts, log, onSigned: (head: LedgerHead) => remember(options.dir, head, log) },
      ...(keepMs === undefined ? {} : { keepMs }),
    });
    await noteStart(ledger, parts, options, { log, accepted });
    return await serveAll(options, socket, { ...parts, dir: options.dir, revocations, metrics, ledger, log });
  } catch (error) {
    await store.close();
    throw error;
  }
}

/** Returns what is wrong with the ledger if that is accepted. @throws SallyportError as checkLedger does, `usage`. */
async function checkOrAccept(
  store: Store,
  { dir, acceptLedger = false, unsafeNewStore = false }: CaOptions,
  clock: Clock,
  log: Log,
): Promise<string | undefined> {
  try {
    await checkLedger(store, dir);
  } catch (error) {
    if (!(error instanceof SallyportError) || !(acceptLedger || unsafeNewStore)) throw error;
    const { code, message } = error;
    const aside = setLastHeadAside(dir, clock.now());
    log.error({ code, ...(aside === undefined ? {} : { file: aside }) }, `accepted as it is: ${message}`);
    return message;
  }
  if (!acceptLedger) return undefined;
  // In a unit file, it would silently accept the next one.
  throw new SallyportError('usage', 'the ledger is the one that the CA wrote: there is nothing to accept', {
    hint: 'leave out --accept-ledger',
  });
}

/** A disk that cannot be written does not keep the CA from serving. The next head is written again. */
function remember(dir: string, head: LedgerHead, log: Log): void {
  try {
    writeLastHead(dir, head, head.time);
  } catch (error) {
    log.error({ code: 'store_failed' }, `cannot write ${lastHeadFileOf(dir)}: ${reasonOf(error)}`);
  }
}

/** A store that cannot be written does not keep the CA from serving bundle and deny list. */
async function noteStart(
  ledger: Ledger,
  { authority }: IssueParts,
  { dir, version }: CaOptions,
  { log, accepted }: { readonly log: Log; readonly accepted: string | undefined },
): Promise<void> {
  const { kind, step } = readState(dir) ?? {};
  const details = {
    issuer: fingerprintOf(authority.above[0]!),
    roots: formatCertificates(authority.bundle.current().roots),
    ...(version === undefined ? {} : { version }),
    ...(accepted === undefined ? {} : { accepted }),
    ...(kind === undefined ? {} : { rotating: `${kind} ${step}` }),
  };
  await ledger.start(details).catch((error: unknown) => log.error({ code: 'store_failed' }, reasonOf(error)));
}

/** The keys, and the store, since users with write access to it could allow what was denied. */
function guardKeys(dir: string, log: Log): void {
  const { intermediateKey, rootKey } = caFilesOf(dir);
  for (const file of [intermediateKey, rootKey, storeFileOf(dir)]) {
    const warning = guardSecret(file);
    if (warning !== undefined) log.warn({ code: 'secret_exposed' }, warning);
  }
}

async function openStore({ dir, unsafeNewStore }: CaOptions, metrics: CaMetrics, log: Log): Promise<Store> {
  const roots = readRootFingerprints(dir);
  const file = storeFileOf(dir);
  if (unsafeNewStore === true) {
    refuseUnlessLost(file);
    rmSync(file, { force: true });
    await createSqliteStore(file, roots[0] ?? '');
    log.warn(
      { code: 'store_new', file },
      `${file} is new: every certificate, token and revocation is forgotten, and revoked workloads can renew; revoke them again`,
    );
  }
  return whenFree(
    () => openSqliteStore(file, roots, { onCommit: metrics.storeCommit }),
    async () => {
      // That process is not starting up, and will not finish soon.
      if (await answersAt(socketFileOf(dir))) throw held(file);
      return undefined;
    },
  );
}

/** The option is for one start. In a unit file, it would silently replace the store at its next loss. */
function refuseUnlessLost(file: string): void {
  const left = [file, `${file}-wal`].find((one) => existsSync(one) && statSync(one).size > 0);
  if (left === undefined) return;
  throw new SallyportError('usage', `a new store is created only if none is left, but ${left} exists`, {
    hint: `leave out --unsafe-new-store; if ${left} is damaged, move it away first`,
  });
}

interface Parts extends OwnSvidParts {
  readonly dir: string;
  readonly graceMs: number;
  readonly revocations: Revocations;
  readonly metrics: CaMetrics;
  readonly ledger: Ledger;
  readonly log: Log;
}

async function serveAll(options: CaOptions, socket: string, parts: Parts): Promise<RunningCa> {
  const { authority, store, revocations, metrics, ledger, log } = parts;
  const own = await createOwnSvid(parts);
  const bundleAnswer = createBundleAnswer(authority.bundle, revocations.denied, ledger.head);
  const agents = new Agents({
    ...{ answer: bundleAnswer, clock: parts.clock },
    denied: () => revocations.denied.current(),
  });
  metrics.watchRunning({ agents, ledger, store });
  const rotations = new Rotations({
    ...{ dir: options.dir, passphrase: options.passphrase, authority, store, agents, clock: parts.clock, log },
    graceMs: parts.graceMs,
    denied: () => revocations.denied.current(),
    async changed() {
      await own.rotate();
      // A head of the new root at once, so that who has only that one can verify all before it.
      await ledger.sign();
    },
  });
  const operator = operatorOf(parts, agents, rotations);
  const { denied } = revocations;
  warnOfMute(options.dir, authority, log);
  const rootCrls = (): readonly string[] => readRootCrls(options.dir);
  const answers = { crl: new CrlMaker({ ...parts, denied, rootCrls }), ocsp: new OcspResponder({ ...parts, denied }) };
  const serving = {
    ...{ log, onRefusal: metrics.refused, onDrop: metrics.connectionDropped, limits: options.limits ?? {} },
    knownBy: (presented: Presented) => knownBy(parts, presented),
  };
  const server = await startServer({
    ...serving,
    listen: options.listen,
    svid: own.live,
    routes: createRoutes({
      ...{ ...parts, ...answers, bundleAnswer, agents },
      ...(options.cluster !== undefined && { cluster: createCluster(options.cluster, parts.clock, log) }),
    }),
  });
  const plain =
    options.ocsp === undefined
      ? undefined
      : await startServer({
          ...serving,
          listen: options.ocsp,
          svid: undefined,
          routes: publicRoutes(answers),
        }).catch(async (error: unknown) => {
          await server.close();
          throw error;
        });
  const listen = parseAddress(`unix:${socket}`, '');
  const admin = await startAdmin({ listen, title: 'Sallyport CA, operator', pages: operatorPages(operator) }).catch(
    async (error: unknown) => {
      await Promise.all([server.close(), plain?.close()]);
      throw error;
    },
  );
  const beat = startBeat(parts, own, rotations);
  const { trustDomain } = authority;
  const ocsp = plain === undefined ? {} : { ocsp: formatAddress(plain.address) };
  const address = formatAddress(server.address);
  log.info({ code: 'listening', address, ...ocsp, socket, trustDomain }, 'the CA is listening');
  return {
    address: server.address,
    ocspAddress: plain?.address,
    socket,
    operator,
    upkeep: beat.now,
    async close() {
      beat.stop();
      agents.close();
      await Promise.all([server.close(), plain?.close()]);
      await admin.close();
      await ledger.stop().catch((error: unknown) => log.error({ code: 'store_failed' }, reasonOf(error)));
      await store.close();
      log.info({ code: 'stopped' }, 'the CA has stopped');
    },
  };
}

function operatorOf(
  { dir, authority, store, revocations, metrics, ledger, log, clock }: Parts,
  agents: Agents,
  rotations: Rotations,
): Operator {
  return createOperator({
    ...{ store, agents, rotations },
    records: createRecords({
      ...{ store, clock, dir },
      trustDomain: authority.trustDomain,
      roots: () => authority.bundle.current().roots,
    }),
    revocations,
    clock,
    trustDomain: authority.trustDomain,
    // At the next hour or stop it is signed all the same.
    seal: () => ledger.sign().catch((error: unknown) => log.warn({ code: 'store_failed' }, reasonOf(error))),
    onEvent(event) {
      log.info(event, event.code);
      if (event.code === 'token_created') metrics.tokenCreated();
      if (event.code === 'revoked') metrics.revoked();
    },
  });
}

/** Checks every ten seconds what is due by the wall clock; hour-long timers would not count time in suspend. */
function startBeat(
  { clock, store, revocations, ledger, log }: Parts,
  own: OwnSvid,
  rotations: Rotations,
): { now(): Promise<void>; stop(): void } {
  let running: Promise<void> = Promise.resolve();
  let trouble: string | undefined;
  /** Checks that the CA can issue before a client needs it. */
  async function probe(): Promise<void> {
    await store.probe().catch(() => {});
    const now = store.trouble();
    if (now === trouble) return;
    trouble = now;
    if (now === undefined)
      log.info({ code: 'store_recovered' }, 'the store can be written again; the CA issues certificates');
    else
      log.error(
        { code: 'store_failed' },
        `the store cannot be written (${now}): nothing is issued or revoked; bundle and deny list are still served`,
      );
  }
  /** One run at a time: a caller during a run waits for it and then sees its changes. */
  function upkeep(): Promise<void> {
    running = running
      .catch(() => {})
      .then(async () => {
        await probe();
        await rotations.upkeep();
        await own.rotate();
        await revocations.prune();
        await ledger.upkeep();
      });
    return running;
  }
  void probe();
  let cancel = clock.after(beatMs, beat);
  let stopped = false;
  function beat(): void {
    void upkeep()
      // probe() has reported a store that cannot be written.
      .catch((error: unknown) => trouble ?? log.error({ code: 'upkeep_failed' }, reasonOf(error)))
      .finally(() => {
        if (!stopped) cancel = clock.after(beatMs, beat);
      });
  }
  return {
    now: upkeep,
    stop() {
      stopped = true;
      cancel();
    },
  };
}

function socketOf({ dir, socket = socketFileOf(dir) }: CaOptions): string {
  try {
    parseAddress(`unix:${socket}`, '');
    return socket;
  } catch (error) {
    throw new SallyportError('config_invalid', reasonOf(error), { hint: 'set a shorter one with --socket' });
  }
}

function checkLeafLife(lifeMs: number): void {
  if (lifeMs >= shortestLeafLifeMs && lifeMs <= longestLeafLifeMs) return;
  throw new SallyportError('ttl_out_of_range', `certificates cannot live for ${lifeMs / 1000} seconds`, {
    hint: 'choose between 1m and 24h',
  });
}

function checkGrace(graceMs: number): void {
  if (graceMs >= 0 && graceMs <= longestGraceMs) return;
  throw new SallyportError('ttl_out_of_range', `expired SVIDs cannot be renewed for ${formatDuration(graceMs)}`, {
    hint: `choose 0 to ${formatDuration(longestGraceMs)}`,
  });
}

function checkKeep(keepMs: number | undefined): void {
  if (keepMs === undefined || keepMs >= shortestKeepMs) return;
  throw new SallyportError(
    'ttl_out_of_range',
    `records of the ledger cannot be kept for ${formatDuration(keepMs)} only`,
    {
      hint: `choose ${formatDuration(shortestKeepMs)} or more`,
    },
  );
}

/** Their certificates are accepted until they expire, and other software cannot learn that one is revoked. */
function warnOfMute(dir: string, { issuerKeys }: Authority, log: Log): void {
  const missing = 1 + previousTimes(dir).length - issuerKeys.length;
  if (missing <= 0) return;
  log.warn(
    { code: 'issuer_key_missing', issuers: missing },
    `the keys of ${missing} earlier issuers cannot be opened: there is no CRL and no OCSP response for their certificates`,
  );
}

function warnOfEnd({ notAfter }: Authority, clock: Clock, log: Log): void {
  if (notAfter - clock.now() > issuerWarningMs) return;
  log.warn({ code: 'intermediate_ending', notAfter: formatTime(notAfter) }, 'the intermediate expires soon');
}
