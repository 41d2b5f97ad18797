// A step of the tour, and its two most common kinds: a call that gets a response, and one that is cut off. The reason
// of a cut is read from the sidecar's log, because a stranger does not see it.

import type { Answer, Credential } from './ask.ts';
import { goDirectly, idOf } from './ask.ts';
import type { Parts, World } from './world.ts';

/** What happened, as text, and whether it should have happened. */
export type Finding = readonly [got: string, ok: boolean];

/** The places of a request in the page's picture; `peer` is a workload without a sidecar. */
export type Place = 'user' | 'gateway' | 'web-sidecar' | 'web' | 'peer' | 'orders-sidecar' | 'orders';

export interface Step {
  readonly name: string;
  readonly expected: string;
  run(): Promise<Finding>;
  /** The path of the step's request, from its start to where it is answered or refused. */
  readonly way?: readonly Place[];
}

/** What a caller sees of a refusal by policy. */
export const denied = 'RBAC: access denied';

/** A step whose call gets `status` and a body that contains `part`. */
export function answers(name: string, status: number, part: string, call: () => Promise<Answer>): Step {
  return {
    name,
    expected: `${status} ${part}`,
    async run() {
      const answer = await call();
      return [`${answer.status} ${answer.body.trim()}`, answer.status === status && answer.body.includes(part)];
    },
  };
}

/** A step whose caller gets no byte, because of `code`. */
export function cutOff(name: string, code: string, world: World, parts: Parts, credential: () => Credential): Step {
  return {
    name,
    expected: `no answer (${code})`,
    async run() {
      const reason = await reasonOfCut(world, parts, credential());
      return [reason.startsWith('svid_') ? `no answer (${reason})` : reason, reason === code];
    },
  };
}

/** Why `orders` closes a connection with `credential`; or its response, if there is one. */
export async function reasonOfCut(world: World, parts: Parts, credential: Credential): Promise<string> {
  const { ordersSidecar } = parts;
  const before = ordersSidecar.log().length;
  const direct = toOrders(world, credential);
  try {
    const { status, body } = await direct.ask();
    return `${status} ${body.trim()}`;
  } catch {
    const logged = (): string | undefined => /"code":"(svid_\w+)"/.exec(ordersSidecar.log().slice(before))?.[1];
    return await world.processes.until(logged, 'the reason in the log of the sidecar of orders');
  } finally {
    direct.end();
  }
}

/** Goes around the sidecar of `web`, directly to the mutual-TLS port of `orders`. */
export function toOrders(world: World, credential: Credential): ReturnType<typeof goDirectly> {
  return goDirectly({ host: '127.0.0.1', port: world.ports.inbound }, idOf('orders'), credential);
}
