// The statuses of everything that a gateway has evaluated, as `kubectl get -o json` would print them: a List whose
// items have the conditions that the standard requires.

import { type Attachments, type ServedListener, sentenceOf } from './attach.ts';
import { type Condition, type Say, sayFor } from './conditions.ts';
import type { ClassSpec, Document, GatewayDocuments, Named, ParentRef, PassedOver } from './documents.ts';
import { controllerName } from './names.ts';
import type { AncestorStatus } from './policies.ts';

/** One object as Kubernetes prints it; the shape of `status` depends on `kind`. */
export interface StatusItem {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace: string; readonly generation: number };
  readonly status: object;
}

/** What `/gateway-status` serves and `gateway status` reads. */
export interface StatusList {
  readonly apiVersion: 'v1';
  readonly kind: 'List';
  readonly items: readonly StatusItem[];
}

/** The status of a policy of any kind. */
export interface PolicyItem {
  readonly apiVersion?: string;
  readonly kind: string;
  readonly policy: { readonly namespace: string; readonly name: string };
  readonly ancestors: readonly AncestorStatus[];
}

/** The whole list: Gateways, routes, policies, classes. `now` in milliseconds. */
export function statusList(
  { gateways, routes }: Attachments,
  policies: readonly PolicyItem[],
  documents: GatewayDocuments,
  now: number,
): StatusList {
  const item = (one: Named, status: object): StatusItem => ({
    apiVersion: one.apiVersion,
    kind: one.kind,
    metadata: { name: one.name, namespace: one.namespace, generation: one.generation },
    status,
  });
  return {
    apiVersion: 'v1',
    kind: 'List',
    items: [
      ...documents.classes.map((one) => item(one, { conditions: [classCondition(one, sayFor(one, now))] })),
      ...documents.refused
        .filter(({ kind }) => kind === 'GatewayClass')
        .map((one) =>
          item(one, { conditions: [sayFor(one, now)('Accepted', false, 'InvalidParameters', sentenceOf(one))] }),
        ),
      ...gateways.map(({ gateway, conditions, listeners }) =>
        item(gateway, {
          addresses: [...new Set(listeners.map(addressOf))].map((value) => ({ type: 'IPAddress', value })),
          conditions,
          listeners: listeners.map(({ spec, supportedKinds, attached, allConditions }) => ({
            ...{ name: spec.name, supportedKinds, attachedRoutes: attached.length },
            conditions: allConditions,
          })),
        }),
      ),
      ...routes.map(({ route, parents }) =>
        item(route, { parents: parents.map((one) => ({ ...one, controllerName })) }),
      ),
      ...documents.passedOver.map((one) => item(one, { conditions: [passedOver(one, sayFor(one, now))] })),
      ...policies.map(
        ({ apiVersion = 'gateway.envoyproxy.io/v1alpha1', kind, policy, ancestors }): StatusItem => ({
          apiVersion,
          kind,
          metadata: { name: policy.name, namespace: policy.namespace, generation: 1 },
          status: { ancestors },
        }),
      ),
    ],
  };
}

/** A part of a status: a listener, a parent, an ancestor, or the whole, whose `section` is empty. */
export interface StatusSection {
  readonly section: string;
  readonly conditions: readonly Condition[];
  readonly routes?: number;
}

/** The parts of a document's status. */
export function sectionsOf({ status }: StatusItem): readonly StatusSection[] {
  const {
    conditions,
    listeners = [],
    parents = [],
    ancestors = [],
  } = status as {
    readonly conditions?: readonly Condition[];
    readonly listeners?: readonly { name: string; attachedRoutes: number; conditions: readonly Condition[] }[];
    readonly parents?: readonly { parentRef: ParentRef; conditions: readonly Condition[] }[];
    readonly ancestors?: readonly AncestorStatus[];
  };
  return [
    ...(conditions === undefined ? [] : [{ section: '', conditions }]),
    ...listeners.map((one) => ({ section: one.name, conditions: one.conditions, routes: one.attachedRoutes })),
    ...parents.map(({ parentRef: { name, sectionName }, conditions: own }) => ({
      section: sectionName === undefined ? name : `${name}/${sectionName}`,
      conditions: own,
    })),
    ...ancestors.map(({ ancestorRef: { kind, name }, conditions: own }) => ({
      section: `${kind} ${name}`,
      conditions: own,
    })),
  ];
}

/** Some conditions are bad if they hold, some are only informational. */
export function isBad({ type, status }: Condition): boolean {
  if (type === 'OverlappingTLSConfig' || type === 'InsecureFrontendValidationMode') return false;
  return (status === 'True') === (type === 'Conflicted' || type === 'PartiallyInvalid');
}

/** A sentence for each part that is not in order, for the log. `places` by kind, namespace and name. */
export function complaintsOf(
  { items }: StatusList,
  places: ReadonlyMap<string, string>,
): readonly { readonly code: string; readonly message: string }[] {
  return items.flatMap((item) => {
    const name = `${item.kind} ${item.metadata.namespace}/${item.metadata.name}`;
    const isPolicy = item.kind !== 'BackendTLSPolicy' && 'ancestors' in item.status;
    const place = places.get(name);
    return sectionsOf(item).flatMap(({ section, conditions }) =>
      conditions.filter(isBad).map(({ type, status, reason, message }) => {
        const state =
          isPolicy && type === 'Accepted'
            ? 'is not attached'
            : `${section === '' ? '' : `(${section}) `}has ${type}=${status}`;
        return {
          code: isPolicy && type === 'Accepted' ? 'policy_not_attached' : 'document_condition',
          // The message of an unknown kind already has its place.
          message: `${name}${place === undefined ? '' : ` of ${place}`} ${state}: ${reason}: ${message}`,
        };
      }),
    );
  });
}

/** The address of a listener: all addresses unless configured. */
function addressOf({ place }: ServedListener): string {
  return place.slice(0, place.lastIndexOf(':')).replace(/^\[|\]$/g, '') || '0.0.0.0';
}

/** A misspelt kind is an error; a kind of another controller is only informational. */
function passedOver({ isSlip, message }: PassedOver, say: Say): Condition {
  return isSlip
    ? say('Accepted', false, 'UnsupportedKind', message)
    : say('PassedOver', true, 'UnsupportedKind', message);
}

/** No kind of parameters is supported; a class of another controller is treated as ours: there is no other here. */
function classCondition({ spec: { parametersRef } }: Document<ClassSpec>, say: Say): Condition {
  if (parametersRef === undefined) return say('Accepted', true, 'Accepted');
  const { kind, name } = parametersRef;
  return say('Accepted', false, 'InvalidParameters', `${kind} ${name} is not supported`);
}
