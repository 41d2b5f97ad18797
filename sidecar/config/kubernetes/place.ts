// Objects of an API server as the documents that a reader takes: those that concern our Gateways, without a file's lines.

import type { Problem } from '../../../cert-agent/base/errors.ts';
import type { KeptObject } from '../../cluster/objects.ts';
import type { PlacedDocument } from '../../documents/istio/read.ts';
import { controllerName } from '../../routing/names.ts';

type Tree = Readonly<Record<string, unknown>>;

/** An object with its parsed text. */
export interface ReadObject {
  readonly object: KeptObject;
  readonly value: Tree;
}

const gatewayApi = 'gateway.networking.k8s.io';
const routeKinds: ReadonlySet<string> = new Set(['HTTPRoute', 'GRPCRoute', 'TLSRoute', 'TCPRoute']);

/** Parses the objects. */
export function readObjects(objects: readonly KeptObject[]): ReadObject[] {
  return objects.map((object) => ({ object, value: JSON.parse(object.text) as Tree }));
}

/** A document's place: there is no file, so it is named instead. */
export function placeOf({ kind, namespace, name }: Pick<KeptObject, 'kind' | 'namespace' | 'name'>): string {
  return `kubernetes/${kind}/${namespace === undefined ? '' : `${namespace}/`}${name}`;
}

/** The documents, for the reader of files. */
export function placeObjects(objects: readonly ReadObject[]): PlacedDocument[] {
  return objects.map(({ object, value }) => {
    const file = placeOf(object);
    return {
      file,
      document: {
        value,
        problemAt: (_path, message, { search, hint = search?.() } = {}): Problem => ({
          ...{ file, line: 1, column: 1, message },
          ...(hint === undefined ? {} : { hint }),
        }),
      },
    };
  });
}

/**
 * What concerns us. Other controllers have Gateways in the same cluster: their classes, their Gateways, the routes and
 * the policies of those are not ours to serve, nor to judge. What is not certainly another's stays.
 */
export function oursOf(objects: readonly ReadObject[]): ReadObject[] {
  const isOurClass = ({ value }: ReadObject): boolean => treeOf(value['spec'])['controllerName'] === controllerName;
  const classes = new Set(
    objects.flatMap((one) => (one.object.kind === 'GatewayClass' && isOurClass(one) ? [one.object.name] : [])),
  );
  const isOurGateway = ({ value }: ReadObject): boolean =>
    classes.has(treeOf(value['spec'])['gatewayClassName'] as string);
  const gateways = objects.filter(({ object }) => object.kind === 'Gateway');
  const ours = new Set(gateways.filter(isOurGateway).map((one) => keyOf(one)));
  const others = new Set(gateways.filter((one) => !isOurGateway(one)).map((one) => keyOf(one)));
  const routes = new Map(
    objects.filter(({ object }) => routeKinds.has(object.kind)).map((one) => [one, withOurParents(one, ours)] as const),
  );
  for (const [one, mine] of routes) if (mine === undefined) others.add(keyOf(one));
  return objects.flatMap((one): ReadObject[] => {
    const { kind } = one.object;
    if (kind === 'GatewayClass') return isOurClass(one) ? [one] : [];
    if (kind === 'Gateway') return isOurGateway(one) ? [one] : [];
    if (routes.has(one)) {
      const mine = routes.get(one);
      return mine === undefined ? [] : [mine];
    }
    return isForOthers(one, others) || isForWorkloads(one) ? [] : [one];
  });
}

/**
 * Policies of Istio for all workloads of a namespace that has a Gateway of ours, or of all namespaces. Istio's own gateway
 * would be among these; ours is not, and evaluates none of them.
 */
export function workloadWarnings(objects: readonly ReadObject[], rootNamespace: string): Problem[] {
  const gateways = oursOf(objects).filter(({ object }) => object.kind === 'Gateway');
  const spaces = new Set(gateways.map(({ object }) => object.namespace));
  if (spaces.size > 0) spaces.add(rootNamespace);
  const found = objects.filter(
    (one) =>
      isForWorkloads(one) && spaces.has(one.object.namespace) && treeOf(one.value['spec'])['selector'] === undefined,
  );
  const warnings = found.slice(0, mostNamed).map(({ object }): Problem => {
    const where = object.namespace === rootNamespace ? 'all namespaces' : `namespace ${object.namespace}`;
    const message = `this ${object.kind} is for all workloads of ${where}: it does not apply to Sallyport's Gateways`;
    const hint = 'to protect their routes, write a SecurityPolicy with targetRefs';
    return { file: placeOf(object), line: 1, column: 1, message, hint };
  });
  const more = found.length - warnings.length;
  if (more > 0) warnings.push({ ...warnings[0]!, message: `and ${more} more for all workloads` });
  return warnings;
}

/** How many are named; the rest is counted. */
const mostNamed = 5;

/** A misspelt name of a class, or of its controller, makes a Gateway another's. `file` is gateway.yaml. */
export function classWarnings(objects: readonly ReadObject[], file: string): Problem[] {
  const classes = new Map(
    objects.flatMap(({ object, value }) =>
      object.kind === 'GatewayClass' ? [[object.name, treeOf(value['spec'])['controllerName']] as const] : [],
    ),
  );
  const at = (where: string, message: string): Problem => ({ file: where, line: 1, column: 1, message });
  const found = [...classes].map(([name, controller]) => `${name} of ${String(controller)}`);
  const there = found.length === 0 ? 'there is none at all' : `there are: ${listed(found)}`;
  const none = [...classes.values()].includes(controllerName)
    ? []
    : [at(file, `no GatewayClass has the controllerName ${controllerName}, so no Gateway is served (${there})`)];
  const lost = objects.flatMap(({ object, value }) => {
    const name = treeOf(value['spec'])['gatewayClassName'];
    return object.kind === 'Gateway' && !classes.has(name as string) ? [[placeOf(object), String(name)] as const] : [];
  });
  const names = [...classes.keys()];
  const known = names.length === 0 ? '' : ` (there are: ${listed(names)})`;
  return [
    ...none,
    ...lost
      .slice(0, mostNamed)
      .map(([place, name]) => at(place, `there is no GatewayClass ${name}, so this Gateway is not served${known}`)),
    ...(lost.length > mostNamed ? [at(file, `and ${lost.length - mostNamed} more Gateways of no GatewayClass`)] : []),
  ];
}

function listed(names: readonly string[]): string {
  const more = names.length > mostNamed ? ` and ${names.length - mostNamed} more` : '';
  return `${names.toSorted().slice(0, mostNamed).join(', ')}${more}`;
}

/** A route with those of its parents that are our Gateways; undefined if none is. */
function withOurParents(one: ReadObject, ours: ReadonlySet<string>): ReadObject | undefined {
  const spec = treeOf(one.value['spec']);
  const { parentRefs } = spec;
  if (!Array.isArray(parentRefs)) return one;
  const mine = parentRefs.filter((ref) => {
    const { group = gatewayApi, kind = 'Gateway', namespace = one.object.namespace, name } = treeOf(ref);
    return group === gatewayApi && kind === 'Gateway' && ours.has(`Gateway ${namespace}/${name}`);
  });
  if (mine.length === 0) return undefined;
  return mine.length === parentRefs.length
    ? one
    : { ...one, value: { ...one.value, spec: { ...spec, parentRefs: mine } } };
}

const targetFields: ReadonlySet<string> = new Set(['targetRef', 'targetRefs']);

/**
 * A policy all of whose targets are Gateways or routes of other controllers. One that selects targets in another way
 * too, as by `targetSelectors`, may mean ours.
 */
function isForOthers({ object, value }: ReadObject, others: ReadonlySet<string>): boolean {
  const spec = treeOf(value['spec']);
  if (Object.keys(spec).some((field) => field.startsWith('target') && !targetFields.has(field))) return false;
  const { targetRef, targetRefs = [] } = spec;
  if (!Array.isArray(targetRefs)) return false;
  const refs: readonly unknown[] = targetRef === undefined ? targetRefs : [targetRef, ...(targetRefs as unknown[])];
  return (
    refs.length > 0 &&
    refs.every((ref) => {
      const { kind, namespace = object.namespace, name } = treeOf(ref);
      return others.has(`${kind} ${namespace}/${name}`);
    })
  );
}

/** A policy of Istio without a target is for pods, or for Istio's own gateways, which it selects by their labels. */
function isForWorkloads({ value }: ReadObject): boolean {
  const isOfIstio = String(value['apiVersion']).startsWith('security.istio.io/');
  return isOfIstio && !Object.keys(treeOf(value['spec'])).some((field) => field.startsWith('target'));
}

function keyOf({ object }: ReadObject): string {
  return `${object.kind} ${object.namespace}/${object.name}`;
}

export function treeOf(value: unknown): Tree {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Tree) : {};
}
