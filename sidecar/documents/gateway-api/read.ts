// Reads the documents of a gateway from plain files: valid ones as their kind, invalid ones with their problems. The
// rest is served beside an invalid one, and an invalid route answers 500. The whole reading stops only if it is unknown
// what a document was to protect: unreadable YAML, a kind that may protect and names nothing, or a policy with
// unreadable targets.

import { z } from 'zod';
import { formatProblem, type Problem } from '../../../cert-agent/base/errors.ts';
import { deepFreeze } from '../../../cert-agent/base/live.ts';
import { readDocument, type YamlDocument } from '../../../cert-agent/base/yaml.ts';
import type {
  BackendTlsSpec,
  DataSpec,
  Document,
  GatewayDocuments,
  GatewaySpec,
  GrantSpec,
  Named,
  NamespaceSpec,
  ParentRef,
  PassedOver,
  RefusedDocument,
  RouteDocument,
  RouteKind,
  ServiceSpec,
} from '../../routing/documents.ts';
import { dated, type PolicyTarget } from '../../schema/gateway-patterns.ts';
import type { PlacedDocument } from '../istio/read.ts';
import type { OwnKinds } from '../sallyport.ts';
import { gatewayKinds, isGatewayApi } from './gateway.ts';
import { idleIn } from './idle.ts';
import { readInformal } from './informal.ts';
import { judgeOtherKind, routeMeantBy } from './kinds.ts';
import { readRoutePartly } from './partly.ts';
import { standInOf } from './stand-in.ts';

/** A document of a kind that is not read, which may protect what it names. */
export interface ClosingDocument extends Named {
  readonly targets: readonly PolicyTarget[];
  readonly problem: Problem;
}

/** Of kinds that are not Gateway API's: whatever an API server has accepted is a name. */
const named = z.looseObject({
  name: z.string().min(1).max(253).describe('The name of the document.'),
  namespace: z.string().min(1).max(63).default('default').describe('The namespace of the document.'),
});

const metadata = named
  .extend({
    labels: z.record(z.string(), z.string()).nullish().describe('Labels. Those of a Namespace select routes.'),
    ...dated,
  })
  .describe('Names the document. Its other fields have no effect.');

/** The part that names a document, whatever else is wrong with it. */
const nameOnly = named.extend({
  generation: dated.generation.catch(1),
  // The oldest possible time: of equal matches, no younger one may come before it.
  creationTimestamp: dated.creationTimestamp.catch('1970-01-01T00:00:00Z'),
});

const service = z.looseObject({
  apiVersion: z.literal('v1').describe('The API version of the document.'),
  kind: z.literal('Service').describe('The kind of the document.'),
  metadata,
  spec: z
    .looseObject({
      ports: z
        .array(
          z.looseObject({
            name: z.string().optional().describe('The name of the port.'),
            port: z.number().int().min(1).max(65_535).describe('The number of the port.'),
            protocol: z.string().default('TCP').describe('The protocol of the port: TCP, UDP or SCTP.'),
            appProtocol: z
              .string()
              .optional()
              .describe('What the backend speaks, such as `kubernetes.io/h2c` or `https`.'),
          }),
        )
        .default([])
        .describe('The ports. Those of UDP and SCTP are passed over.'),
    })
    .describe('The Service.'),
});

const base64 = z.string().regex(/^[A-Za-z0-9+/\s]*={0,2}\s*$/, 'values of data must be base64');
const secret = z.looseObject({
  apiVersion: z.literal('v1').describe('The API version of the document.'),
  kind: z.literal('Secret').describe('The kind of the document.'),
  metadata,
  type: z.string().optional().describe('The type of the Secret.'),
  data: z.record(z.string(), base64).nullish().describe('Entries in base64.'),
  stringData: z
    .record(z.string(), z.string())
    .nullish()
    .describe('Entries as plain text. Of two with one name, this one counts.'),
});
const configMap = z.looseObject({
  apiVersion: z.literal('v1').describe('The API version of the document.'),
  kind: z.literal('ConfigMap').describe('The kind of the document.'),
  metadata,
  data: z.record(z.string(), z.string()).nullish().describe('Entries as plain text.'),
});
const namespace = z.looseObject({
  apiVersion: z.literal('v1').describe('The API version of the document.'),
  kind: z.literal('Namespace').describe('The kind of the document.'),
  metadata,
});

/** Kubernetes' own kinds. Their other fields are passed over. */
export const coreKinds = { Service: service, Secret: secret, ConfigMap: configMap, Namespace: namespace } as const;

const hasStatus = new Set(['Gateway', 'GatewayClass', 'HTTPRoute', 'GRPCRoute', 'TLSRoute', 'TCPRoute']);
const routeKinds = new Set(['HTTPRoute', 'GRPCRoute', 'TLSRoute', 'TCPRoute']);

/** Reads the documents. `problems` stop the reading; invalid documents are in `documents.refused`. Throws nothing. */
export function readGatewayDocuments(
  placed: readonly PlacedDocument[],
  own: OwnKinds,
): {
  readonly documents: GatewayDocuments;
  /** Kinds that are not read here: those that may protect, and their targets. */
  readonly closing: readonly ClosingDocument[];
  readonly problems: readonly Problem[];
} {
  const found = new Map<string, unknown[]>();
  const refused: RefusedDocument[] = [];
  const warnings: Problem[] = [];
  const problems: Problem[] = [];
  const passedOver: PassedOver[] = [];
  const closing: ClosingDocument[] = [];
  const places = new Map<string, string>();
  const keep = (named: Named, spec: unknown, document: YamlDocument, more: object = {}): void => {
    const key = `${named.kind} ${named.namespace}/${named.name}`;
    const taken = places.get(key);
    if (taken !== undefined) {
      problems.push(document.problemAt(['metadata', 'name'], `${key} is already defined in ${taken}`));
      return;
    }
    places.set(key, `${named.file}:${named.line}`);
    const list = found.get(named.kind);
    if (list === undefined) found.set(named.kind, [{ ...named, spec, ...more }]);
    else list.push({ ...named, spec, ...more });
  };
  for (const { file, document, modifiedAt } of placed) {
    const { kind, apiVersion } = headOf(document.value);
    if (isGatewayApi(document) && kind in gatewayKinds) {
      const informal = kind === 'HTTPRoute' ? readInformal(document) : { document, warnings: [] };
      const read = readRoutePartly(informal.document);
      warnings.push(...informal.warnings);
      const named = nameOf(document, file, kind, apiVersion, modifiedAt);
      if ('problems' in read) {
        // For a document without a name, or of an unknown kind, it is unknown what its refusal leaves open.
        const parents = kind === 'BackendTLSPolicy' ? targetsOf(document.value) : parentsOf(document.value);
        if (named === undefined || parents === undefined) problems.push(...read.problems);
        else {
          const why = refusalOf(kind, read.problems);
          refused.push({ ...named, ...why, parents });
          if (routeKinds.has(kind)) {
            const { spec, refusal } = standInOf(kind as RouteKind, document.value, why);
            keep(named, spec, document, { refusal });
          }
        }
        // These have no status for it.
        const isSaid = hasStatus.has(kind) && (!routeKinds.has(kind) || (parents?.length ?? 0) > 0);
        if (named !== undefined && !isSaid) warnings.push(...read.problems);
      } else {
        keep(named!, read.value.spec, document);
        warnings.push(...idleIn(document, kind, read.value.spec));
        if (routeKinds.has(kind) && parentsOf(document.value).length === 0)
          warnings.push(
            document.problemAt(['spec'], `this ${kind} names no Gateway in 'parentRefs': it is not served`),
          );
      }
      continue;
    }
    const read = readCore(document, kind, apiVersion);
    if (read === undefined) {
      const judged = judgeOtherKind(document, kind, apiVersion, own);
      const { problem } = judged;
      const named = nameOf(document, file, kind, apiVersion, modifiedAt);
      if ('closes' in judged && named !== undefined) closing.push({ ...named, targets: judged.closes, problem });
      else if (!('isSlip' in judged)) problems.push(problem);
      else {
        warnings.push(problem);
        if (named !== undefined && judged.isNoted)
          passedOver.push({ ...named, isSlip: judged.isSlip, message: formatProblem(problem) });
        const meant = routeMeantBy(kind, apiVersion);
        if (named !== undefined && meant !== undefined) {
          const why = { reason: 'UnsupportedValue', problems: [problem] };
          const { spec, refusal } = standInOf(meant, document.value, why);
          keep({ ...named, kind: meant }, spec, document, { refusal });
        }
      }
    } else if ('problems' in read) problems.push(...read.problems);
    else keep(nameOf(document, file, kind, apiVersion, modifiedAt)!, read.spec, document);
  }
  const of = <S>(kind: string): readonly Document<S>[] => (found.get(kind) ?? []) as Document<S>[];
  const documents: GatewayDocuments = {
    gateways: of<GatewaySpec>('Gateway'),
    classes: of('GatewayClass'),
    routes: [...routeKinds].flatMap((kind) => of(kind)) as RouteDocument[],
    grants: of<GrantSpec>('ReferenceGrant'),
    backendTls: of<BackendTlsSpec>('BackendTLSPolicy'),
    services: of<ServiceSpec>('Service'),
    secrets: of<DataSpec>('Secret'),
    configMaps: of<DataSpec>('ConfigMap'),
    namespaces: of<NamespaceSpec>('Namespace'),
    refused,
    passedOver,
    warnings,
  };
  return { documents: deepFreeze(documents), closing, problems };
}

/** A document's kind and apiVersion; empty if it has none. */
export function headOf(value: unknown): { kind: string; apiVersion: string } {
  const { kind, apiVersion } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
  return {
    kind: typeof kind === 'string' ? kind : '',
    apiVersion: typeof apiVersion === 'string' ? apiVersion : '',
  };
}

function nameOf(
  document: YamlDocument,
  file: string,
  kind: string,
  apiVersion: string,
  modifiedAt: number | undefined,
): Named | undefined {
  const read = nameOnly.safeParse((document.value as { metadata?: unknown } | null)?.metadata);
  if (!read.success) return undefined;
  const { name, namespace: space, generation = 1, creationTimestamp } = read.data;
  return {
    kind,
    apiVersion,
    namespace: space,
    name,
    file,
    line: document.problemAt(['metadata', 'name'], '').line,
    createdAt: creationTimestamp == null ? modifiedAt : Date.parse(creationTimestamp),
    generation,
  };
}

/** The standard's reason: `Invalid` for a Gateway; for a route, why it cannot be served. */
function refusalOf(kind: string, problems: readonly Problem[]): { reason: string; problems: readonly Problem[] } {
  const incompatible = problems.every(({ message }) => message.includes('exclude each other'));
  const reason = !routeKinds.has(kind) ? 'Invalid' : incompatible ? 'IncompatibleFilters' : 'UnsupportedValue';
  return { reason, problems };
}

const looseParent = z.looseObject({
  group: z.string().default('gateway.networking.k8s.io'),
  kind: z.string().default('Gateway'),
  namespace: z.string().optional(),
  name: z.string(),
  sectionName: z.string().optional(),
  port: z.number().optional(),
});

/** The parents of a refused route, for its status. */
function parentsOf(value: unknown): readonly ParentRef[] {
  const { spec } = value as { spec?: { parentRefs?: unknown } };
  return looseList(spec?.parentRefs);
}

/** What a refused BackendTLSPolicy was to protect; undefined if unknown. */
function targetsOf(value: unknown): readonly ParentRef[] | undefined {
  const { spec } = value as { spec?: { targetRefs?: unknown } };
  const list = spec?.targetRefs;
  const read = looseList(list);
  return Array.isArray(list) && list.length > 0 && read.length === list.length ? read : undefined;
}

function looseList(list: unknown): ParentRef[] {
  return (Array.isArray(list) ? list : []).flatMap((one) => {
    const read = looseParent.safeParse(one);
    return read.success ? [read.data as ParentRef] : [];
  });
}

function readCore(
  document: YamlDocument,
  kind: string,
  apiVersion: string,
): { spec: unknown } | { problems: Problem[] } | undefined {
  if (apiVersion !== 'v1') return undefined;
  if (kind === 'Service') {
    const read = readDocument(service, document);
    if ('problems' in read) return read;
    // HTTP/3 has a UDP port with the same number, whose name and appProtocol say nothing about the TCP port that is
    // used.
    const ports = read.value.spec.ports.filter(({ protocol }) => !/^(?:UDP|SCTP)$/i.test(protocol));
    return { spec: { ports: ports.map(({ name, port, appProtocol }) => ({ name, port, appProtocol })) } };
  }
  if (kind === 'Secret') {
    const read = readDocument(secret, document);
    if ('problems' in read) return read;
    const { type, data, stringData } = read.value;
    const decoded = Object.entries(data ?? {}).map(([key, text]) => [
      key,
      Buffer.from(text, 'base64').toString('utf8'),
    ]);
    return { spec: { type, data: { ...Object.fromEntries(decoded), ...stringData } } };
  }
  if (kind === 'ConfigMap') {
    const read = readDocument(configMap, document);
    return 'problems' in read ? read : { spec: { data: read.value.data ?? {} } };
  }
  if (kind !== 'Namespace') return undefined;
  const read = readDocument(namespace, document);
  if ('problems' in read) return read;
  // Kubernetes labels every namespace with its name.
  const { name, labels } = read.value.metadata;
  return { spec: { labels: { 'kubernetes.io/metadata.name': name, ...labels } } };
}
