// Stands in for a route that is refused as a whole. It answers 500 to every request that the route may have matched: if
// another route got them, they would avoid what was to protect this one. The readable parts keep that narrow.

import { nearestTo } from '../../../cert-agent/base/did-you-mean.ts';
import type {
  GrpcRule,
  HttpMatch,
  HttpRule,
  ParentRef,
  Refusal,
  RouteKind,
  RouteSpec,
} from '../../routing/documents.ts';
import { hostname, namespace, objectName, port, sectionName } from '../../schema/gateway-patterns.ts';
import { bagOf, coverGrpc, coverHttp, coverMatches, unclearIn } from './cover.ts';
import { nameOfRule } from './partly.ts';

type Rule = HttpRule | GrpcRule;
type Why = Pick<Refusal, 'reason' | 'problems'>;

/** The stand-in for a route whose document is invalid. Throws nothing. */
export function standInOf(
  kind: RouteKind,
  value: unknown,
  why: Why,
): { readonly spec: RouteSpec<Rule>; readonly refusal: Refusal } {
  const { spec } = value as { readonly spec?: unknown };
  const { useDefaultGateways, ...known } = bagOf(spec);
  const unclear = unclearIn(spec === bagOf(spec) ? known : spec, ['parentRefs', 'hostnames', 'rules']);
  const hosts = listOf(known['hostnames']).map(hostIn);
  const isAnyHost = unclear.has('hostnames') || hosts.includes(undefined);
  const parents = listOf(known['parentRefs']).map(parentIn);
  const isAnyParent = unclear.has('parentRefs') || useDefaultGateways !== undefined || parents.includes(undefined);
  const told = parents.flatMap((one) => one ?? []);
  const rules = kind === 'HTTPRoute' || kind === 'GRPCRoute' ? rulesIn(kind, known['rules'], unclear) : [{}];
  const broken = { reason: why.reason, message: 'its route is not valid' };
  return {
    spec: {
      parentRefs: told.flatMap(({ ref }) => ref ?? []),
      hostnames: isAnyHost ? [] : hosts.flatMap((one) => one ?? []),
      rules: rules.map((rule) => ({ ...(isAnyHost ? beforeAll(rule) : rule), broken })),
    },
    refusal: {
      ...why,
      isAnyHost,
      isAnyParent,
      parentNames: told.flatMap(({ name }) => name ?? []),
    },
  };
}

function rulesIn(kind: 'HTTPRoute' | 'GRPCRoute', said: unknown, unclear: ReadonlySet<string>): Rule[] {
  const cover = (kind === 'HTTPRoute' ? coverHttp : coverGrpc) as (match: unknown) => HttpMatch;
  const list = said === undefined ? (unclear.has('rules') ? [] : [{}]) : listOf(said);
  return [
    ...list.map((rule) => ({ ...nameOfRule(rule), matches: coverMatches(rule, cover) })),
    ...(unclear.has('rules') ? [{ matches: [cover(undefined)] }] : []),
  ];
}

/** For any host: routes of a more specific host may have a more specific path. */
function beforeAll(rule: Rule): Rule {
  const { matches = [] } = rule as HttpRule;
  const list = matches.length === 0 ? [{}] : matches;
  return { ...rule, matches: list.map((match) => ({ ...match, widened: 'path' as const })) };
}

function listOf(said: unknown): readonly unknown[] {
  return said === undefined ? [] : Array.isArray(said) ? said : [said];
}

/** A host name, also with what people often add to one: a port, a final dot, capitals. */
function hostIn(said: unknown): string | undefined {
  if (typeof said !== 'string') return undefined;
  const read = hostname(true).safeParse(said.toLowerCase().replace(/:\d+$/, '').replace(/\.$/, ''));
  return read.success ? read.data : undefined;
}

/** A parent, or its name alone if its namespace cannot be read; undefined if it could be any. */
function parentIn(said: unknown): { readonly ref?: ParentRef; readonly name?: string } | undefined {
  const unclear = unclearIn(said, ['group', 'kind', 'namespace', 'name', 'sectionName', 'port']);
  const { group = api, kind = 'Gateway', ...own } = bagOf(said);
  const name = objectName.safeParse(own['name']);
  if (!name.success || unclear.has('name')) return undefined;
  // Routes of a Service belong to the mesh.
  if (typeof kind === 'string' && nearestTo(kind, ['Gateway', 'Service']) === 'Service' && group !== api) return {};
  const space = namespace.optional().safeParse(own['namespace']);
  if (!space.success || unclear.has('namespace')) return { name: name.data };
  const section = sectionName.safeParse(own['sectionName']);
  const number = port.safeParse(own['port']);
  return {
    ref: {
      ...{ group: api, kind: 'Gateway', name: name.data },
      ...(space.data === undefined ? {} : { namespace: space.data }),
      ...(section.success && !unclear.has('sectionName') ? { sectionName: section.data } : {}),
      ...(number.success && !unclear.has('port') ? { port: number.data } : {}),
    },
  };
}

const api = 'gateway.networking.k8s.io';
