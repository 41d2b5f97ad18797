// What a Kubernetes API server refuses by the CRDs of Gateway API (v1.6, experimental channel), beyond what makes a
// document unusable for a gateway. For `check` only: a gateway serves files that were written for earlier versions.

import type { Problem } from '../../../cert-agent/base/errors.ts';
import type { YamlDocument } from '../../../cert-agent/base/yaml.ts';
import { type Found, problemsByRows, type Row, row } from '../api-rows.ts';

/** The same rule for the filters of rules and for those of backends. */
function filterRow<T>(
  kinds: string,
  path: string,
  rule: (value: T) => string | false | undefined | readonly Found[],
): Row[] {
  return ['rules[].filters[]', 'rules[].backendRefs[].filters[]'].map((base) => row(kinds, `${base}.${path}`, rule));
}

/** Items of a list with a key that an earlier item has; without a key an item differs from all others. */
function repeated<T>(keyOf: (item: T) => string | undefined, at: Found[0] = []): (list: readonly T[]) => Found[] {
  return (list) => {
    const keys = list.map(keyOf);
    return keys.flatMap((key, index): Found[] =>
      key !== undefined && keys.indexOf(key) < index ? [[[index, ...at], `'${key}' is listed twice`]] : [],
    );
  };
}

const same = repeated<string | number>(String);
const sameName = repeated<{ readonly name: string }>(({ name }) => name, ['name']);

const atMost =
  (most: number, what: string) =>
  (map: object): string | false =>
    Object.keys(map).length > most && `has at most ${most} ${what}`;

const host = /^(?:\*\.)?[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*$/;
const labelKey =
  /^(?:[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*\/)?(?:[A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$/;
const labelValue = /^(?:(?:[A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$/;
const fieldValue = /^[!-~]+(?:[\t ]?[!-~]+)*$/;

function badKeys(map: Readonly<Record<string, string>>): Found[] {
  return Object.keys(map).flatMap((key): Found[] =>
    labelKey.test(key) && key.split('/')[0]!.length < 253 ? [] : [[[key], `'${key}' is not a valid key`]],
  );
}

interface Listener {
  readonly protocol: string;
  readonly tls?: object;
}
interface Address {
  readonly type: string;
  readonly value?: string;
}
interface Target {
  readonly group: string;
  readonly kind: string;
  readonly name: string;
  readonly sectionName?: string;
}
interface Method {
  readonly type: string;
  readonly service?: string;
  readonly method?: string;
}
interface Filter {
  readonly requestRedirect?: { readonly path?: { readonly type: string } };
  readonly urlRewrite?: { readonly path?: { readonly type: string } };
}
interface Rule {
  readonly matches?: readonly { readonly path?: { readonly type: string } }[];
  readonly filters?: readonly Filter[];
  readonly backendRefs?: readonly { readonly filters?: readonly Filter[] }[];
}

function replacesPrefix({ filters = [] }: { readonly filters?: readonly Filter[] }): boolean {
  return filters.some((one) => (one.requestRedirect ?? one.urlRewrite)?.path?.type === 'ReplacePrefixMatch');
}

function needsOnePrefix(rule: Rule): string | false {
  const { matches = [{}], backendRefs = [] } = rule;
  const onePrefix = matches.length === 1 && (matches[0]!.path?.type ?? 'PathPrefix') === 'PathPrefix';
  return (
    !onePrefix && [rule, ...backendRefs].some(replacesPrefix) && 'ReplacePrefixMatch needs exactly one PathPrefix match'
  );
}

/** A policy may name a whole target, or parts of it, and each once. */
function clashing(list: readonly Target[]): Found[] {
  return list.flatMap((one, index): Found[] => {
    const earlier = list.slice(0, index).filter(({ group, kind, name }) => {
      return group === one.group && kind === one.kind && name === one.name;
    });
    if (earlier.some(({ sectionName }) => sectionName === one.sectionName))
      return [[[index], `the target ${one.kind} ${one.name} is named twice`]];
    const mixed = earlier.some(({ sectionName }) => (sectionName === undefined) !== (one.sectionName === undefined));
    return mixed ? [[[index], `${one.kind} ${one.name} is named as a whole and by its sections`]] : [];
  });
}

const modifiers = ['requestHeaderModifier', 'responseHeaderModifier'];
const corsLists = ['allowOrigins', 'allowMethods', 'allowHeaders', 'exposeHeaders'];
const isStableTls = (version: string): boolean => version !== 'v1alpha2';

const rows: readonly Row[] = [
  row<readonly Listener[]>('Gateway', 'listeners', (list) =>
    list.flatMap(({ protocol, tls }, index): Found[] =>
      protocol === 'TLS' && tls === undefined ? [[[index, 'protocol'], "protocol TLS needs 'tls' with a mode"]] : [],
    ),
  ),
  row<string>('Gateway', 'listeners[].allowedRoutes.namespaces.from', (from) => {
    return from === 'None' && "a listener's routes come from All, Selector or Same";
  }),
  row<object>('Gateway', 'listeners[].tls.options', atMost(16, 'options')),
  row<readonly Address[]>(
    'Gateway',
    'addresses',
    repeated(({ type, value }) => (/^(?:IPAddress|Hostname)$/.test(type) ? value : undefined)),
  ),
  row<Address>('Gateway', 'addresses[]', ({ type, value }) => {
    if (type === '') return [[['type'], 'a type must not be empty']];
    return type === 'Hostname' && value !== undefined && !host.test(value) && [[['value'], `'${value}' is not a host`]];
  }),
  row<object>('Gateway', 'infrastructure.labels', atMost(8, 'labels')),
  row<object>('Gateway', 'infrastructure.annotations', atMost(16, 'annotations')),
  row('Gateway', 'infrastructure.labels', badKeys),
  row('Gateway', 'infrastructure.annotations', badKeys),
  row<Record<string, string>>('Gateway', 'infrastructure.labels', (labels) =>
    Object.entries(labels).flatMap(([key, value]): Found[] =>
      value.length <= 63 && labelValue.test(value) ? [] : [[[key], `'${value}' is not a label's value`]],
    ),
  ),
  row<object>('Gateway', 'tls.frontend', (frontend) => !('default' in frontend) && "needs 'default'"),
  row<readonly { readonly port: number }[]>(
    'Gateway',
    'tls.frontend.perPort',
    repeated(({ port }) => String(port)),
  ),
  row<string>('Gateway', 'defaultScope', (scope) => !/^(?:All|None)$/.test(scope) && 'must be All or None'),
  row<string>(
    'GatewayClass',
    'controllerName',
    (name) => !host.test(name.slice(0, name.indexOf('/'))) && 'a controller is named domain/path',
  ),
  row<readonly unknown[]>('HTTPRoute', 'rules', (list) => list.length === 0 && 'a route has at least one rule'),
  row('HTTPRoute', 'rules[]', needsOnePrefix),
  row('HTTPRoute', 'rules[].matches[].queryParams', sameName),
  row<number>('HTTPRoute', 'rules[].retry.attempts', (attempts) => attempts < 1 && 'at least one attempt'),
  row('HTTPRoute', 'rules[].retry.codes', same),
  row<{ readonly type: string; readonly cookieConfig?: object }>(
    'HTTPRoute GRPCRoute',
    'rules[].sessionPersistence',
    ({ type, cookieConfig }) =>
      type !== 'Cookie' && cookieConfig !== undefined && [[['cookieConfig'], `type ${type} has no 'cookieConfig'`]],
  ),
  ...modifiers.flatMap((modifier) => [
    ...filterRow('HTTPRoute GRPCRoute', `${modifier}.remove`, same),
    ...['set', 'add'].flatMap((list) =>
      filterRow<string>(
        'HTTPRoute GRPCRoute',
        `${modifier}.${list}[].value`,
        (value) => !fieldValue.test(value) && 'a value is printable ASCII, without space at its ends or twice in a row',
      ),
    ),
  ]),
  ...corsLists.flatMap((list) => filterRow('HTTPRoute', `cors.${list}`, same)),
  ...corsLists
    .slice(0, 3)
    .flatMap((list) =>
      filterRow<readonly string[]>(
        'HTTPRoute',
        `cors.${list}`,
        (values) => values.includes('*') && values.length > 1 && "'*' stands alone",
      ),
    ),
  row<Method>('GRPCRoute', 'rules[].matches[].method', ({ type, service, method }) => {
    if (type !== 'Exact') return undefined;
    if (service !== undefined && !/^\.?[a-z_][a-z_0-9]*(?:\.[a-z_][a-z_0-9]*)*$/i.test(service))
      return [[['service'], `'${service}' is not a service`]];
    return method !== undefined && !/^[A-Za-z_]\w*$/.test(method) && [[['method'], `'${method}' is not a method`]];
  }),
  // v1alpha2 did not ask for host names.
  row<{ readonly hostnames?: readonly string[] }>(
    'TLSRoute',
    '',
    ({ hostnames = [] }, version) => isStableTls(version) && hostnames.length === 0 && "a TLSRoute needs 'hostnames'",
  ),
  row<readonly unknown[]>(
    'TLSRoute TCPRoute',
    'rules',
    (list, version) => version !== 'v1alpha2' && list.length > 1 && [[[1], 'a route of streams has one rule']],
  ),
  row('BackendTLSPolicy', 'targetRefs', clashing),
  row<string>(
    'BackendTLSPolicy',
    'validation.subjectAltNames[].uri',
    (uri) => !/^[^:/?#]+:\/\/[^/?#]*/.test(uri) && `'${uri}' is not a URI with a scheme and an authority`,
  ),
];

/** Everything that an API server refuses in a document that has passed its kind's schema. */
export function apiProblems(document: YamlDocument, kind: string, apiVersion: string, spec: unknown): Problem[] {
  return problemsByRows(rows, { document, kind, apiVersion, spec });
}
