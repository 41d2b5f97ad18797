// What the layers are for: requests that should not pass, each with the one layer that refuses it when all others are
// open, and the code in that layer's log.

import type { World } from '../../two-services/demo/world.ts';
import { askAsReports, askAsUser, countsOf, stealFromLog, titleOf, tokenFor, wordsOf } from './callers.ts';
import { type Layer, layers } from './layers.ts';
import type { Guard } from './world.ts';

export interface Try {
  readonly name: string;
  readonly layer: Layer;
  /** The layer's content for this request, if it is not its own file. */
  readonly source?: string;
  ask(): Promise<string>;
  /** The outcome when every layer is open. */
  readonly open: string;
  readonly refused: string;
  /** The code in the log of `guard`. */
  readonly code: string;
  readonly policy?: string;
  readonly guard: Guard;
}

export interface Users {
  readonly clerk: string;
  readonly guest: string;
  readonly hasty: string;
}

export async function makeUsers(world: World): Promise<Users> {
  const [clerk, guest, hasty] = await Promise.all([
    tokenFor(world, 'ada', 'clerks'),
    tokenFor(world, 'bob', 'guests'),
    tokenFor(world, 'eve', 'clerks'),
  ]);
  return { clerk, guest, hasty };
}

const denied = '403 RBAC: access denied';
/** One more than documents/limits.yaml allows. */
const tooMany = 11;

/** In the order in which a request would meet the layers. */
export function triesOf(world: World, { clerk, guest, hasty }: Users): readonly Try[] {
  const atGateway = { open: '200', guard: 'gateway' } as const;
  const atWeb = { open: '200', refused: denied, code: 'policy_denied', guard: 'web-sidecar' } as const;
  const webUsers = { ...atWeb, layer: layers.webUsers, policy: 'ns[shop]-policy[web-users]-rule[0]' };
  return [
    {
      ...atGateway,
      name: 'an unknown host name',
      layer: layers.door,
      ask: () => wordsOf(askAsUser(world, { token: clerk, serverName: 'other.demo.test' })),
      refused: 'no answer',
      code: 'server_name_unknown',
    },
    {
      ...atGateway,
      name: 'another host than that of the TLS handshake',
      layer: layers.door,
      ask: () => wordsOf(askAsUser(world, { token: clerk, host: 'other.demo.test' })),
      refused: '404',
      code: 'no_route',
    },
    {
      ...atGateway,
      name: 'no token',
      layer: layers.users,
      ask: () => wordsOf(askAsUser(world, {})),
      refused: '401 Jwt is missing',
      code: 'jwt_missing',
    },
    {
      name: 'a clerk in a hurry',
      layer: layers.limits,
      ask: () => countsOf(Array.from({ length: tooMany }, () => askAsUser(world, { token: hasty }))),
      open: `${tooMany} times 200`,
      refused: `${tooMany - 1} times 200, 1 times 429`,
      code: 'rate_limited',
      guard: 'gateway',
    },
    {
      ...atGateway,
      name: 'an order number with a leading zero',
      layer: layers.api,
      ask: () => titleOf(askAsUser(world, { token: clerk, path: '/orders/01' })),
      refused: '400',
      code: 'request_invalid',
    },
    {
      ...atWeb,
      name: 'a gateway that web does not know',
      layer: layers.webPeers,
      source: 'not-this-gateway.yaml',
      ask: () => wordsOf(askAsUser(world, { token: clerk })),
      policy: 'none',
    },
    {
      ...atWeb,
      name: 'a workload that goes around the gateway',
      layer: layers.webPeers,
      ask: () => wordsOf(askAsReports(world, {})),
      policy: 'none',
    },
    {
      ...webUsers,
      name: 'a guest, by way of the gateway',
      ask: () => wordsOf(askAsUser(world, { token: guest })),
    },
    {
      ...webUsers,
      name: "a workload with a clerk's token",
      ask: () => wordsOf(askAsReports(world, { authorization: `Bearer ${clerk}` })),
    },
    {
      ...webUsers,
      name: 'a workload with a stolen transaction token',
      ask: () => wordsOf(askAsReports(world, { 'txn-token': stealFromLog(world) })),
    },
    {
      name: 'web sends what it may not send: DELETE',
      layer: layers.orders,
      ask: () => wordsOf(askAsUser(world, { token: clerk, method: 'DELETE', path: '/orders/3' })),
      ...{ open: '200', refused: denied, code: 'policy_denied', policy: 'none', guard: 'orders-sidecar' },
    },
  ];
}
