// Sorts the hooks of a rule's capabilities by phase, once, when the configuration is compiled. A request then walks
// flat lists, and a phase without hooks costs nothing.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Phases, Step } from '../exchange/exchange.ts';
import type { Hooks } from './capability.ts';

/**
 * Hooks with their capability, in the order of the table. `of` is a digest of the policy that they were compiled from,
 * with its Secrets.
 */
export type NamedHooks = readonly (readonly [name: string, hooks: Hooks, of?: string])[];

/**
 * @param broken the response of a rule that cannot be served as intended, after its admit steps
 * @param ask calls the rule's authorizers
 */
export function layOut(all: NamedHooks, ask: Step, broken?: SallyportError): Phases {
  const of = <K extends keyof Hooks>(phase: K): readonly NonNullable<Hooks[K]>[] =>
    shared(all.flatMap(([, hooks]) => (hooks[phase] === undefined ? [] : [hooks[phase] as NonNullable<Hooks[K]>])));
  const authorizers = of('authorizer');
  const refuse = (): never => {
    throw broken!;
  };
  return Object.freeze({
    before: shared([
      ...of('admit'),
      ...(broken === undefined ? [] : [refuse]),
      ...of('authenticate'),
      ...of('authenticated'),
      ...(authorizers.length === 0 ? [] : [ask]),
      ...of('limit'),
    ]),
    authorize: of('authorize'),
    serve: of('serve'),
    rewrite: of('rewrite'),
    forwarded: of('forwarded'),
    received: of('received'),
    reply: of('reply'),
    watch: of('watch'),
    body: onlyOne(of('body')),
    denial: of('denial'),
    finished: of('finished'),
    authorizers,
    guards: all.flatMap(([name, { guard }, from = '']) => (guard === undefined ? [] : [{ name, of: from, ...guard }])),
  });
}

const none: readonly never[] = Object.freeze([]);
const singles = new WeakMap<object, readonly unknown[]>();

/**
 * The same list for the same single hook, and for none: most lists of a thousand rules are equal, and a request that
 * meets lists of its own rule only waits for memory (1 to 6 % of its CPU time, measured).
 */
function shared<T extends object>(list: readonly T[]): readonly T[] {
  const [one] = list;
  if (one === undefined) return none;
  if (list.length > 1) return list;
  const known = singles.get(one) as readonly T[] | undefined;
  if (known === undefined) singles.set(one, list);
  return known ?? list;
}

/** @throws SallyportError `config_invalid` if two capabilities change the body: they would not know of each other. */
function onlyOne<T>(filters: readonly T[]): T | undefined {
  if (filters.length > 1)
    throw new SallyportError('config_invalid', 'two capabilities want to change the body of a response');
  return filters[0];
}
