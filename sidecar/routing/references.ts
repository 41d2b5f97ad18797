// What documents refer to: backends, certificates, authorities. A reference is resolved, or gives the standard's reason
// why not; across namespaces it needs a ReferenceGrant of the target's namespace.

import { X509Certificate } from 'node:crypto';
import { createSecureContext } from 'node:tls';
import { reasonOf } from '../../cert-agent/base/errors.ts';
import { formatPem, readPemBlocks } from '../../cert-agent/identity/bundle.ts';
import type { CrlSettings, CrlSource } from '../../cert-agent/identity/crl-check.ts';
import { parseKey } from '../../cert-agent/identity/keys.ts';
import type { Unresolved } from './conditions.ts';
import type { BackendRef, DataSpec, Document, GatewayDocuments, ObjectRef } from './documents.ts';

/** What a gateway knows beyond its documents. */
export interface GatewayWorld {
  /** The upstream of a Service's port, by `namespace/name:port`. */
  readonly backends: Readonly<Record<string, string>>;
  /** Certificates from PEM files, by the `namespace/name` of the Secret that they stand for. */
  readonly certificates: Readonly<Record<string, PemPair>>;
  /** The CRLs of gateway.yaml, for every listener that requests certificates. */
  readonly clientCrls?: CrlSettings | undefined;
  /** Where a Gateway's port is served, by `namespace/name:port`; absent: on all addresses, under its own number. */
  readonly listeners: Readonly<Record<string, string>>;
  /**
   * The last served pair of each Secret: while files are written one after the other, key and certificate do not match.
   */
  readonly lastCertificates: ReadonlyMap<string, ServedPair>;
  /** What was served last: it stays if something new claims the same. */
  readonly inForce: InForce;
  /** Wall clock, milliseconds. */
  readonly now: number;
}

/** What a new generation does not take away from those that were served. */
export interface InForce {
  /** Routes as `kind namespace/name`, by listener (`namespace/gateway/section`): of equal matches the first wins. */
  readonly routes: ReadonlyMap<string, readonly string[]>;
  readonly places: readonly GatewayPlace[];
}

/** Where a Gateway listens; the host is empty for all addresses. */
export interface GatewayPlace {
  readonly gateway: string;
  readonly host: string;
  readonly port: string;
}

/**
 * A certificate chain, leaf first, and its private key, both PEM. Unchecked; empty if a file is missing. Never logged.
 */
export interface PemPair {
  readonly certificate: string;
  readonly key: string;
}

/** A pair as a listener serves it, with the `namespace/name` of its Secret. */
export interface ServedPair extends PemPair {
  readonly secret: string;
}

/** A backend that a rule names. */
export interface ResolvedBackend {
  readonly ref: BackendRef;
  /** `namespace/name:port`. */
  readonly key: string;
  readonly namespace: string;
  /** Undefined: the Service exists without any known endpoint. */
  readonly upstream: string | undefined;
  readonly problem: Unresolved | undefined;
}

/** Whether `from` (kind and namespace) may refer to `to`. Always allowed within a namespace. */
export function isGranted(
  { grants }: GatewayDocuments,
  from: { readonly group: string; readonly kind: string; readonly namespace: string },
  to: ObjectRef & { readonly namespace: string },
): boolean {
  if (from.namespace === to.namespace) return true;
  return grants.some(
    ({ namespace, spec }) =>
      namespace === to.namespace &&
      spec.from.some((one) => one.group === from.group && one.kind === from.kind && one.namespace === from.namespace) &&
      spec.to.some(
        (one) => one.group === to.group && one.kind === to.kind && (one.name === undefined || one.name === to.name),
      ),
  );
}

/** Resolves a route's backend. */
export function resolveBackend(
  ref: BackendRef,
  route: { readonly kind: string; readonly namespace: string },
  documents: GatewayDocuments,
  { backends }: GatewayWorld,
): ResolvedBackend {
  const namespace = ref.namespace ?? route.namespace;
  const key = `${namespace}/${ref.name}:${ref.port ?? ''}`;
  const resolved = (problem: Unresolved | undefined, upstream?: string): ResolvedBackend => ({
    ...{ ref, key, namespace, problem, upstream },
  });
  if (ref.group !== '' || ref.kind !== 'Service')
    return resolved({ reason: 'InvalidKind', message: `${ref.group}/${ref.kind} ${ref.name} is not a Service` });
  const from = { group: 'gateway.networking.k8s.io', kind: route.kind, namespace: route.namespace };
  if (!isGranted(documents, from, { ...ref, namespace }))
    return resolved({
      reason: 'RefNotPermitted',
      message: `no ReferenceGrant in ${namespace} allows ${route.kind}s of ${route.namespace} to refer to Service ${ref.name}`,
    });
  const broken = documents.refused.find(
    (one) =>
      one.kind === 'BackendTLSPolicy' &&
      one.namespace === namespace &&
      one.parents.some((target) => target.kind === 'Service' && target.name === ref.name),
  );
  if (broken !== undefined)
    return resolved({
      // The standard has no reason for it; without its policy the backend would be contacted in plaintext.
      reason: 'InvalidBackendTLSPolicy',
      message: `BackendTLSPolicy ${namespace}/${broken.name} is not valid, so Service ${ref.name} gets no requests`,
    });
  const upstream = Object.hasOwn(backends, key) ? backends[key] : undefined;
  const there = documents.services.find((one) => one.namespace === namespace && one.name === ref.name);
  if (upstream === undefined && there?.spec.ports.some(({ port }) => port === ref.port) !== true)
    return resolved({
      reason: 'BackendNotFound',
      message:
        there === undefined
          ? `there is no Service ${namespace}/${ref.name}, and 'backends' does not name ${key}`
          : `Service ${namespace}/${ref.name} has no port ${ref.port}`,
    });
  if (upstream === undefined && there?.spec.refused !== undefined)
    return resolved({ reason: 'InvalidKind', message: there.spec.refused });
  return resolved(undefined, upstream);
}

/**
 * A certificate and its key, as a listener refers to them. If they exist but are unusable, the pair that was served
 * last stays while it is valid, with the problem beside it: a mistake in a rotation is no outage.
 */
export function resolveCertificate(
  ref: ObjectRef,
  gateway: { readonly namespace: string },
  documents: GatewayDocuments,
  world: GatewayWorld,
): { readonly pair?: ServedPair; readonly problem?: Unresolved } {
  const namespace = ref.namespace ?? gateway.namespace;
  const name = `${namespace}/${ref.name}`;
  const invalid = (
    message: string,
    pair?: ServedPair,
  ): { readonly pair?: ServedPair; readonly problem: Unresolved } => ({
    problem: { reason: 'InvalidCertificateRef', message },
    ...(pair === undefined ? {} : { pair }),
  });
  if (ref.group !== '' || ref.kind !== 'Secret') return invalid(`${ref.kind} ${name} is not a Secret`);
  const from = { group: 'gateway.networking.k8s.io', kind: 'Gateway', namespace: gateway.namespace };
  if (!isGranted(documents, from, { ...ref, namespace }))
    return {
      problem: {
        reason: 'RefNotPermitted',
        message: `no ReferenceGrant in ${namespace} allows Gateways of ${gateway.namespace} to refer to Secret ${ref.name}`,
      },
    };
  const file = Object.hasOwn(world.certificates, name) ? world.certificates[name] : undefined;
  const secret = documents.secrets.find((one) => one.namespace === namespace && one.name === ref.name);
  if (file === undefined && secret === undefined)
    return invalid(`there is no Secret ${name}, and 'certificates' does not name it`);
  const { 'tls.crt': certificate = '', 'tls.key': key = '' } = secret?.spec.data ?? {};
  const pair = { certificate, key, ...file, secret: name };
  const isMissing = file !== undefined && (file.certificate === '' || file.key === '');
  const wrong = isMissing
    ? `a file that 'certificates' names for ${name} is missing or empty`
    : wrongWith(pair, name, world.now);
  if (wrong === undefined) return { pair };
  const last = world.lastCertificates.get(name);
  return invalid(wrong, last !== undefined && wrongWith(last, name, world.now) === undefined ? last : undefined);
}

/** Why a certificate cannot be served. Contains nothing of the key. */
function wrongWith({ certificate, key }: PemPair, name: string, now: number): string | undefined {
  try {
    const [leaf] = readPemBlocks(certificate, `tls.crt of ${name}`);
    if (leaf === undefined) return `tls.crt of ${name} contains no certificate`;
    const read = new X509Certificate(leaf);
    if (!read.checkPrivateKey(parseKey(key, `tls.key of ${name}`)))
      return `the key of ${name} does not belong to its certificate`;
    if (read.validToDate.getTime() <= now)
      return `the certificate of ${name} expired at ${read.validToDate.toISOString()}`;
    return whyUnservable(certificate, key, name);
  } catch (error) {
    return reasonOf(error);
  }
}

/** OpenSSL's objection: a weak key or signature, or an unreadable chain. Checked before a client connects. */
function whyUnservable(cert: string, key: string, name: string): string | undefined {
  try {
    createSecureContext({ cert, key });
    return undefined;
  } catch (error) {
    return `the certificate of ${name} cannot be served: ${reasonOf(error)}`;
  }
}

/** The usable authorities (PEM) that a listener or a BackendTLSPolicy refers to, and the problems of the others. */
export function resolveAuthorities(
  refs: readonly ObjectRef[],
  from: { readonly group: string; readonly kind: string; readonly namespace: string },
  documents: GatewayDocuments,
): { readonly pem: string; readonly problems: readonly Unresolved[] } {
  const problems: Unresolved[] = [];
  let pem = '';
  for (const ref of refs) {
    const namespace = ref.namespace ?? from.namespace;
    const name = `${namespace}/${ref.name}`;
    const list = sourceOf(ref.kind, documents);
    if (ref.group !== '' || list === undefined) {
      problems.push({ reason: 'InvalidCACertificateKind', message: `${ref.kind} ${name} cannot hold authorities` });
      continue;
    }
    if (!isGranted(documents, from, { ...ref, namespace })) {
      problems.push({
        reason: 'RefNotPermitted',
        message: `no ReferenceGrant in ${namespace} allows ${from.kind}s of ${from.namespace} to refer to ${ref.kind} ${ref.name}`,
      });
      continue;
    }
    const found = list.find((one) => one.namespace === namespace && one.name === ref.name);
    const read = readAuthorities(found, `${ref.kind} ${name}`);
    if ('reason' in read) problems.push(read);
    else pem += read.pem;
  }
  return { pem, problems };
}

/**
 * The CRLs (`ca.crl`, PEM) that a ClientTrafficPolicy refers to, and the problems of the others: without them the check
 * refuses what they are about.
 */
export function resolveCrls(
  refs: readonly ObjectRef[],
  from: { readonly group: string; readonly kind: string; readonly namespace: string },
  documents: GatewayDocuments,
): { readonly sources: readonly CrlSource[]; readonly problems: readonly Unresolved[] } {
  const problems: Unresolved[] = [];
  const sources: CrlSource[] = [];
  for (const ref of refs) {
    const namespace = ref.namespace ?? from.namespace;
    const name = `${ref.kind} ${namespace}/${ref.name}`;
    const list = ref.group === '' ? sourceOf(ref.kind, documents) : undefined;
    const found = list?.find((one) => one.namespace === namespace && one.name === ref.name);
    const text = found?.spec.data['ca.crl'];
    const problem =
      list === undefined
        ? `${name} cannot hold CRLs`
        : !isGranted(documents, from, { ...ref, namespace })
          ? `no ReferenceGrant in ${namespace} allows ${from.kind} of ${from.namespace} to refer to ${ref.kind} ${ref.name}`
          : text === undefined
            ? `there is no ca.crl in ${name}`
            : undefined;
    if (problem !== undefined) problems.push({ reason: 'InvalidCRLRef', message: problem });
    else sources.push({ source: `ca.crl of ${name}`, text: text! });
  }
  return { sources, problems };
}

function sourceOf(kind: string, { configMaps, secrets }: GatewayDocuments): readonly Document<DataSpec>[] | undefined {
  if (kind === 'ConfigMap') return configMaps;
  return kind === 'Secret' ? secrets : undefined;
}

function readAuthorities(found: Document<DataSpec> | undefined, what: string): { pem: string } | Unresolved {
  const reason = 'InvalidCACertificateRef';
  if (found === undefined) return { reason, message: `there is no ${what}` };
  try {
    const blocks = readPemBlocks(found.spec.data['ca.crt'] ?? '', `ca.crt of ${what}`);
    if (blocks.length === 0) return { reason, message: `ca.crt of ${what} contains no certificate` };
    return { pem: formatPem(blocks) };
  } catch (error) {
    return { reason, message: reasonOf(error) };
  }
}
