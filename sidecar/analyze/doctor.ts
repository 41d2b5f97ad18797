// `sallyport doctor`: what on this machine would keep a sidecar or gateway from working, each with its fix. It changes
// nothing and needs no running process. The rules are those of the other commands: the certificate by `inspect`'s, the
// CA and the upstreams by the agent's and inspect's connections, the app's exposure by the sidecar's own.

import { accessSync, constants, statfsSync, statSync } from 'node:fs';
import { createServer, isIP } from 'node:net';
import { dirname, resolve } from 'node:path';
import { createCaConnection } from '../../cert-agent/agent/connect.ts';
import { type Address, formatAddress, isLoopback, parseAddress } from '../../cert-agent/base/address.ts';
import { formatDuration } from '../../cert-agent/base/clock.ts';
import { descriptorLimit } from '../../cert-agent/base/descriptors.ts';
import { errnoOf, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import { isExposed } from '../../cert-agent/base/secret-file.ts';
import { pathsIn } from '../../cert-agent/identity/generation.ts';
import type { IdentityPaths } from '../../cert-agent/identity/identity.ts';
import { type ChainReport, inspectChain } from '../../cert-agent/identity/inspect.ts';
import { readBundleFile, readIdentityTexts } from '../../cert-agent/identity/read.ts';
import type { Settings } from '../config/settings.ts';
import { secretFilesOf } from '../config/sources.ts';
import { answers, exposureOf } from '../observe/exposure.ts';
import { systemLookup } from '../upstream/resolve.ts';
import { adminPage, askAdmin } from './admin-client.ts';
import { type ClientSvid, lookAtFiles, lookAtPeer, type Sight } from './endpoint.ts';
import { cgroupResults, podResults, readCgroup } from './machine.ts';
import { bad, ok, poor, type Result, skipped } from './result.ts';

/** What is examined. */
export interface Patient {
  readonly settings: Settings;
  /** The files that configure it, the first of which is the settings'. */
  readonly files: readonly string[];
  /** Our version. */
  readonly version: string;
  readonly now: number;
  readonly env: NodeJS.ProcessEnv;
}

/** The times that a difference of clocks, and a lookup, may take before they are reported, milliseconds. */
const skewWarningMs = 5000;
const skewErrorMs = 60_000;
const slowLookupMs = 1000;
const lookupMs = 5000;
const leastFreeBytes = 64 * 1024 * 1024;
/** Of an SVID's life. An agent renews at 45 to 60 %. */
const renewedBy = 0.75;
/** Of each upstream; the first are enough to see what is wrong. */
const mostEndpoints = 20;

type Check = (patient: Patient) => Result[] | Promise<Result[]>;

const checks: Readonly<Record<string, Check>> = {
  node: checkNode,
  limits: checkLimits,
  files: checkFiles,
  disk: checkDisk,
  certificate: checkCertificate,
  ca: checkCa,
  dns: checkDns,
  upstreams: checkUpstreams,
  process: checkProcess,
  app: checkApps,
  pod: (patient) => podResults(patient.env, patient.now),
};

/** Runs every check; one that fails itself is an error of its own. The order is that of the table. */
export async function examine(patient: Patient): Promise<Result[]> {
  const all = await Promise.all(
    Object.entries(checks).map(async ([check, run]) => {
      try {
        return await run(patient);
      } catch (error) {
        return [bad(check, reasonOf(error), hintOf(error) ?? 'see the message')];
      }
    }),
  );
  return all.flat();
}

const hintOf = (error: unknown): string | undefined => (error instanceof SallyportError ? error.hint : undefined);

function checkNode(): Result[] {
  // bin.mjs has refused what is too old, and an environment that opens the process.
  return [
    ok('node', `Node ${process.versions.node} with OpenSSL ${process.versions.openssl}, user ${process.geteuid?.()}`),
  ];
}

function checkLimits({ settings }: Patient): Result[] {
  const descriptors = descriptorLimit();
  const { connections } = settings.limits;
  const found = cgroupResults(readCgroup());
  if (descriptors < 1024)
    found.push(
      poor(
        'limits',
        `only ${descriptors} files may be open (connections: ${connections})`,
        'raise the limit: ulimit -n, LimitNOFILE= in systemd, ulimits: in compose',
      ),
    );
  return found.length > 0
    ? found
    : [ok('limits', `${descriptors} open files; no narrow limit of memory, CPU or processes`)];
}

/** The files of the identity: those named, or those of the agent inside. */
export function identityPaths({ identity, trustDomain }: Settings): IdentityPaths | undefined {
  if (identity.files !== undefined) return { ...identity.files, trustDomain };
  return identity.ca === undefined ? undefined : pathsIn(identity.ca.outDir, trustDomain);
}

function checkFiles({ settings, files }: Patient): Result[] {
  const { ca } = settings.identity;
  const found: Result[] = [];
  const key = identityPaths(settings)?.key;
  const secrets = [key, ca?.tokenFile, ...secretFilesOf(settings)].filter((one) => one !== undefined);
  for (const file of secrets.filter(isExposed))
    found.push(
      bad(
        'files',
        `every user of this machine may read ${file}`,
        `chmod 600 ${file}, and replace the secret if the machine has other users`,
      ),
    );
  for (const file of files) {
    const mode = statSync(file, { throwIfNoEntry: false })?.mode ?? 0;
    if ((mode & 0o002) !== 0)
      found.push(
        bad('files', `every user of this machine may change ${file}, and with it who is let in`, `chmod o-w ${file}`),
      );
  }
  for (const file of [...files, key, ca?.bundle].filter((one) => one !== undefined)) {
    const errno = accessErrno(file, constants.R_OK);
    if (errno === 'EACCES')
      found.push(
        bad(
          'files',
          `user ${process.geteuid?.()} cannot read ${file}`,
          `chown or chgrp it to the user that runs sallyport`,
        ),
      );
  }
  if (ca !== undefined) {
    const place = existing(ca.outDir);
    if (accessErrno(place, constants.W_OK) !== undefined)
      found.push(
        bad(
          'files',
          `user ${process.geteuid?.()} cannot write to ${place}, where the certificate is kept`,
          `chown ${place} to the user that runs sallyport`,
        ),
      );
    if (accessErrno(ca.bundle, constants.R_OK) === 'ENOENT')
      found.push(bad('files', `${ca.bundle} does not exist`, "copy the CA's bundle.pem there"));
  }
  return found.length > 0
    ? found
    : [ok('files', `files of configuration: ${files.length}, secrets: ${secrets.length}; their modes are right`)];
}

function accessErrno(file: string, mode: number): string | undefined {
  try {
    accessSync(file, mode);
    return undefined;
  } catch (error) {
    return errnoOf(error) ?? 'EACCES';
  }
}

/** The nearest directory above that exists. */
function existing(path: string): string {
  return statSync(path, { throwIfNoEntry: false }) !== undefined || path === '/' ? path : existing(dirname(path));
}

function checkDisk({ settings }: Patient): Result[] {
  const { identity, accessLog, learn } = settings;
  const written = [
    identity.ca?.outDir,
    accessLog === 'stdout' ? undefined : dirname(accessLog),
    learn === undefined ? undefined : dirname(learn.file),
  ];
  const places = [...new Set(written.filter((one) => one !== undefined).map(existing))];
  const full = places.flatMap((place) => {
    const { bavail, bsize } = statfsSync(place);
    const free = bavail * bsize;
    return free >= leastFreeBytes
      ? []
      : [
          poor(
            'disk',
            `${Math.round(free / 1_048_576)} MB are free at ${place}`,
            'make room: without it no certificate and no access log can be written, and nothing new is served',
          ),
        ];
  });
  if (full.length > 0) return full;
  return [
    places.length === 0 ? skipped('disk', 'nothing is written') : ok('disk', `there is room at ${places.join(', ')}`),
  ];
}

/** Our own credential; undefined while there is none. */
function ownSight(settings: Settings): Sight | undefined {
  const paths = identityPaths(settings);
  return paths === undefined || 'missing' in readIdentityTexts(paths) ? undefined : lookAtFiles(paths);
}

/** Our own certificate, or what is there to get one with. */
export function checkCertificate({ settings, now }: Pick<Patient, 'settings' | 'now'>): Result[] {
  const { identity, trustDomain, workload } = settings;
  const sight = ownSight(settings);
  if (sight === undefined) {
    if (identity.files !== undefined)
      return [
        bad(
          'certificate',
          `${identity.files.svid}, its key or its bundle does not exist`,
          'start the agent that writes them',
        ),
      ];
    const { tokenFile: joinToken, kubernetesTokenFile } = identity.ca ?? {};
    const tokenFile = joinToken ?? kubernetesTokenFile;
    const isOfPod = joinToken === undefined && kubernetesTokenFile !== undefined;
    const kind = isOfPod ? 'service-account token' : 'join token';
    const token = tokenFile === undefined ? undefined : statSync(tokenFile, { throwIfNoEntry: false });
    return token === undefined || token.size === 0
      ? [
          bad(
            'certificate',
            `there is no certificate yet, and no ${kind}${tokenFile === undefined ? '' : ` in ${tokenFile}`}`,
            isOfPod
              ? 'mount a projected volume with serviceAccountToken there'
              : 'sallyport ca token create --spiffe-id ..., and name the file as tokenFile',
          ),
        ]
      : [ok('certificate', `there is none yet; the ${kind} is there`)];
  }
  const report = inspectChain(sight.chain, { ...sight, trustDomain, now });
  const found = report.rules
    .filter(({ holds }) => !holds)
    .map(({ rule, message }) => bad('certificate', `${rule}: ${message}`, fixOf(rule)));
  const expected = `spiffe://${trustDomain}/ns/${workload.namespace}/sa/${workload.serviceAccount}`;
  if (report.spiffeId !== undefined && report.spiffeId !== expected)
    found.push(
      poor(
        'certificate',
        `it is that of ${report.spiffeId}, and 'workload' says ${expected}`,
        'make a token for this identity, or correct namespace and serviceAccount: policies of one do not match the other',
      ),
    );
  if (found.length === 0 && usedUp(report) > renewedBy)
    found.push(
      poor(
        'certificate',
        `it is valid for another ${formatDuration(report.timeLeftMs)} only`,
        'it should have been renewed: look at the log of the agent, and at the check of the CA',
      ),
    );
  return found.length > 0
    ? found
    : [ok('certificate', `${report.spiffeId}, valid for another ${formatDuration(report.timeLeftMs)}`)];
}

function usedUp({ notBefore, notAfter, timeLeftMs }: ChainReport): number {
  return 1 - timeLeftMs / (Date.parse(notAfter) - Date.parse(notBefore));
}

function fixOf(rule: string): string {
  if (rule === 'validity') return 'correct the clock if it is wrong; else look why the agent did not renew it';
  if (rule === 'denied') return 'sallyport ca allow, and a new join token';
  return "'sallyport inspect' shows the certificate; get a new one from the CA of this trust domain";
}

/** The CA, as an agent connects to it, and what its clock says. */
async function checkCa({ settings }: Patient): Promise<Result[]> {
  const { ca } = settings.identity;
  if (ca === undefined)
    return [skipped('ca', 'the certificate comes from files'), skipped('clock', 'there is no CA to compare with')];
  if (accessErrno(ca.bundle, constants.R_OK) !== undefined)
    return [skipped('ca', 'without its bundle it cannot be verified')];
  const trust = readBundleFile(ca.bundle, settings.trustDomain);
  const { client } = createCaConnection({ url: new URL(ca.url), trust, now: Date.now });
  const began = Date.now();
  try {
    const { statusCode, headers, body } = await client.request({ method: 'GET', path: '/healthz' });
    const text = await body.text();
    const health =
      statusCode === 200
        ? ok('ca', `${ca.url} answers`)
        : poor(
            'ca',
            `${ca.url} is not healthy (${statusCode}): ${text.slice(0, 200).trim()}`,
            'look at the log of the CA',
          );
    return [health, clockResult(Date.parse(String(headers['date'])), began, Date.now())];
  } catch (error) {
    const fix =
      hintOf(error) ?? 'is the CA running, is the address right, and does a firewall let this machine through?';
    return [bad('ca', `${ca.url}: ${reasonOf(error)}`, fix), skipped('clock', 'there is no CA to compare with')];
  } finally {
    void client.destroy();
  }
}

/** The header has whole seconds, and was written between the two times of ours. */
export function clockResult(theirs: number, began: number, ended: number): Result {
  if (Number.isNaN(theirs)) return skipped('clock', 'the CA does not say its time');
  const ahead = began > theirs + 1000 ? began - theirs - 1000 : ended < theirs ? ended - theirs : 0;
  const apart = Math.abs(ahead);
  if (apart < skewWarningMs) return ok('clock', 'it agrees with that of the CA');
  const message = `this clock is ${formatDuration(apart)} ${ahead > 0 ? 'ahead of' : 'behind'} that of the CA`;
  const fix = 'synchronise both (chrony, systemd-timesyncd): certificates would count as expired, or as not yet valid';
  return apart < skewErrorMs ? poor('clock', message, fix) : bad('clock', message, fix);
}

/** An address that is dialled. */
export interface Named {
  readonly what: string;
  /** Where the configuration says it. */
  readonly path: readonly (string | number)[];
  readonly address: Address;
}

/** Everything that is dialled. */
export function dialled({ upstreams, identity, gateway }: Settings): Named[] {
  const ca =
    identity.ca === undefined
      ? []
      : [{ what: 'the CA', path: ['identity', 'ca', 'url'], address: caAddress(identity.ca.url) }];
  const all = Object.entries({ ...upstreams, ...gateway?.outside });
  return [
    ...ca,
    ...all.flatMap(([name, { endpoints }]) =>
      endpoints.map((address, index) => ({
        what: `upstream ${name}`,
        path: ['upstreams', name, 'endpoints', index],
        address,
      })),
    ),
  ];
}

function caAddress(url: string): Address {
  const { hostname, port } = new URL(url);
  return parseAddress(`${hostname}:${port === '' ? 443 : port}`, '');
}

async function checkDns({ settings }: Patient): Promise<Result[]> {
  const names = new Map<string, string>();
  for (const { what, address } of dialled(settings))
    if ('host' in address && isIP(address.host) === 0) names.set(address.host, what);
  const found = await Promise.all([...names].map(async ([host, what]) => lookUp(host, what)));
  const wrong = found.filter((one) => one !== undefined);
  if (wrong.length > 0) return wrong;
  return [
    names.size === 0
      ? skipped('dns', 'only addresses are dialled')
      : ok('dns', `${[...names.keys()].join(', ')}: found`),
  ];
}

/** The result for a name that is not found, or only slowly. */
export async function lookUp(host: string, what: string): Promise<Result | undefined> {
  const began = performance.now();
  const tooLong = Promise.withResolvers<never>();
  const timer = setTimeout(() => tooLong.reject(new Error(`no answer within ${lookupMs} ms`)), lookupMs);
  try {
    await Promise.race([systemLookup(host), tooLong.promise]);
    const took = Math.round(performance.now() - began);
    return took < slowLookupMs
      ? undefined
      : poor(
          'dns',
          `looking up ${host} (${what}) took ${took} ms`,
          'look at the servers in /etc/resolv.conf, and at ndots and search',
        );
  } catch (error) {
    return bad(
      'dns',
      `${host} (${what}) is not found: ${reasonOf(error)}`,
      'correct the name, or the servers in /etc/resolv.conf',
    );
  } finally {
    clearTimeout(timer);
  }
}

async function checkUpstreams({ settings, now }: Patient): Promise<Result[]> {
  const own = ownSight(settings);
  const svid = own === undefined ? undefined : clientSvid(settings);
  const mesh = Object.entries(settings.upstreams).flatMap(([name, { endpoints, identity }]) =>
    endpoints.slice(0, mostEndpoints).map((address) => lookAtUpstream(name, address, identity, svid, own, now)),
  );
  const outside = Object.entries(settings.gateway?.outside ?? {}).flatMap(([name, { endpoints }]) =>
    endpoints
      .slice(0, mostEndpoints)
      .map(async (address) => ((await answers(address)) ? undefined : unreachable(name, address))),
  );
  const found = (await Promise.all([...mesh, ...outside])).filter((one) => one !== undefined);
  if (mesh.length + outside.length === 0) return [skipped('upstreams', 'there are none')];
  return found.length > 0
    ? found
    : [ok('upstreams', `all endpoints (${mesh.length + outside.length}) answer, as whom they should be`)];
}

function clientSvid(settings: Settings): ClientSvid | undefined {
  const paths = identityPaths(settings);
  const read = paths === undefined ? undefined : readIdentityTexts(paths);
  return read === undefined || 'missing' in read ? undefined : { chainPem: read.texts.svid, keyPem: read.texts.key };
}

const unreachable = (name: string, address: Address): Result =>
  bad(
    'upstreams',
    `${name}: ${formatAddress(address)} does not answer`,
    'is it running, is the port right, and does a firewall let this machine through?',
  );

async function lookAtUpstream(
  name: string,
  address: Address,
  wanted: readonly string[],
  svid: ClientSvid | undefined,
  own: Sight | undefined,
  now: number,
): Promise<Result | undefined> {
  let sight: Sight;
  try {
    sight = await lookAtPeer(address, svid);
  } catch (error) {
    return bad(
      'upstreams',
      `${name}: ${reasonOf(error)}`,
      hintOf(error) ?? 'is it running, is the port right, and does a firewall let this machine through?',
    );
  }
  const at = `${name} at ${formatAddress(address)}`;
  const report = inspectChain(sight.chain, { now, ...(own?.bundles === undefined ? {} : { bundles: own.bundles }) });
  if (report.spiffeId === undefined || !wanted.includes(report.spiffeId))
    return bad(
      'upstreams',
      `${at} is ${report.spiffeId ?? 'without a SPIFFE ID'}, not ${wanted.join(' or ')}`,
      "correct 'endpoints' or 'identity' of the upstream",
    );
  const broken = report.rules.find(({ holds }) => !holds);
  if (broken !== undefined)
    return bad(
      'upstreams',
      `${at}: ${broken.rule}: ${broken.message}`,
      'the upstream needs a certificate of a CA that we trust',
    );
  const after = sight.connection?.afterHandshake ?? '';
  if (svid !== undefined && after !== 'the connection stays open')
    return bad(
      'upstreams',
      `${at}: after the handshake ${after}`,
      "it does not accept our certificate: 'sallyport inspect' with --dir shows both sides",
    );
  return undefined;
}

interface State {
  readonly configFile?: string;
  readonly version?: string;
  readonly ready?: boolean;
  readonly waitingFor?: readonly string[];
  readonly lastProblem?: { readonly message: string } | null;
}

/** The running process of this configuration, by its admin port; without one, whether its ports are free. */
async function checkProcess(patient: Patient): Promise<Result[]> {
  const { settings, version } = patient;
  const state = await stateOf(settings.admin);
  if (state === undefined || state.configFile !== resolve(settings.file)) return checkPorts(patient);
  const found: Result[] = [];
  if (state.version !== undefined && state.version !== version)
    found.push(poor('process', `${state.version} is running, and this is ${version}`, 'restart it'));
  if (state.lastProblem !== null && state.lastProblem !== undefined)
    found.push(
      bad(
        'process',
        `the last change was rejected: ${state.lastProblem.message}`,
        "'sallyport status' names each problem",
      ),
    );
  if (state.ready !== true)
    found.push(
      bad(
        'process',
        `it is running and not ready: waiting for ${state.waitingFor?.join('; ')}`,
        'see the other findings, and its log',
      ),
    );
  return found.length > 0 ? found : [ok('process', `${version} is running and ready`)];
}

async function stateOf(admin: Address | undefined): Promise<State | undefined> {
  if (admin === undefined) return undefined;
  try {
    const { status, body } =
      'path' in admin
        ? await askAdmin(new URL('http://localhost/state'), admin.path)
        : await askAdmin(adminPage(formatAddress(admin), '/state'));
    return status === 200 && typeof body === 'object' && body !== null ? body : undefined;
  } catch {
    return undefined;
  }
}

async function checkPorts({ settings }: Patient): Promise<Result[]> {
  const { inbound, outbound, admin, health, gateway } = settings;
  const wanted: Address[] = [
    ...inbound.map(({ port, bind }) => ({ host: bind ?? '::', port })),
    ...outbound.map(({ port, bind }) => ({ host: bind, port })),
    ...Object.values(gateway?.listeners ?? {}).map((text) => parseAddress(text, '::')),
    ...[admin, health].filter((one) => one !== undefined),
  ];
  const found = (await Promise.all(wanted.map(tryPort))).filter((one) => one !== undefined);
  return found.length > 0
    ? found
    : [ok('ports', `no process of this configuration is running; its ${wanted.length} ports are free`)];
}

function tryPort(address: Address): Promise<Result | undefined> {
  // A socket file is replaced if nothing listens on it.
  if ('path' in address) return Promise.resolve(undefined);
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', (error) => {
      const where = formatAddress(address);
      const errno = errnoOf(error);
      // A machine without IPv6.
      if (errno === 'EAFNOSUPPORT') resolve(undefined);
      else if (errno === 'EADDRINUSE')
        resolve(bad('ports', `another process uses ${where}`, `find it with ss -ltnp, or choose another port`));
      else if (errno === 'EACCES')
        resolve(
          bad(
            'ports',
            `user ${process.geteuid?.()} may not listen on ${where}`,
            'give CAP_NET_BIND_SERVICE, or choose a port above 1023',
          ),
        );
      else
        resolve(bad('ports', `cannot listen on ${where}: ${reasonOf(error)}`, 'is this an address of this machine?'));
    });
    server.listen({ host: address.host, port: address.port, exclusive: true }, () =>
      server.close(() => resolve(undefined)),
    );
  });
}

async function checkApps({ settings }: Patient): Promise<Result[]> {
  const found = await Promise.all(settings.inbound.map(({ app }) => checkApp(app)));
  return settings.inbound.length === 0 ? [skipped('app', 'there is no inbound port')] : found.flat();
}

async function checkApp(app: Address): Promise<Result[]> {
  const where = formatAddress(app);
  const exposed = await exposureOf(app);
  if (exposed !== undefined) return [bad('app', exposed.message, exposed.mend)];
  if (!(await answers(app)))
    return [poor('app', `no app answers on ${where}`, "start it, or correct 'app' of the inbound port")];
  return [ok('app', `it answers on ${where}${'host' in app && isLoopback(app.host) ? ', and on loopback only' : ''}`)];
}
