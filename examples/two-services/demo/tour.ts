// The tour: what is allowed, what is refused, and what changes while everything runs. Each step tries one thing and
// reports whether it did what it should.

import { ask, type Credential } from './ask.ts';
import { policyAdded, revoked } from './changes.ts';
import { rotated } from './rotation.ts';
import { answers, cutOff, denied, type Finding, type Place, type Step, toOrders } from './step.ts';
import { usersSteps } from './users.ts';
import { credentialOf, type Parts, type World } from './world.ts';

/** All steps, in an order in which they build on each other. */
export function tourOf(world: World, parts: Parts): readonly Step[] {
  const ofWeb: readonly Place[] = ['web', 'web-sidecar', 'orders-sidecar'];
  return [
    ...allowedCalls(world).map((step) => ({ way: [...ofWeb, 'orders'] as const, ...step })),
    ...refusedCalls(world, parts).map((step, i) => ({ way: i < 2 ? ofWeb : atOrders, ...step })),
    ...usersSteps(world),
    ...changes(world, parts),
  ];
}

const atOrders: readonly Place[] = ['peer', 'orders-sidecar'];

function allowedCalls({ ports }: World): Step[] {
  const lantern = 'a lantern';
  const port = ports.outbound;
  return [
    answers('the page of web, whose app calls orders', 200, lantern, () => ask({ port: ports.webApp, path: '/' })),
    answers('allowed: GET, by Host', 200, lantern, () => ask({ port, host: 'orders' })),
    answers('allowed: GET, as with http_proxy', 200, lantern, () =>
      ask({ port, path: 'http://orders/orders', host: 'orders' }),
    ),
    answers('allowed: GET, by the port of the upstream', 200, lantern, () =>
      ask({ port: ports.toOrders, host: 'any.example' }),
    ),
  ];
}

function refusedCalls(world: World, parts: Parts): Step[] {
  const stranger = (): Credential => ({ trust: credentialOf(world, 'reports').trust });
  const impostor = (): Credential => ({ ...credentialOf(world, 'other-web'), ...stranger() });
  return [
    answers('the same with a forbidden method: DELETE', 403, denied, () =>
      ask({ port: world.ports.outbound, host: 'orders', method: 'DELETE' }),
    ),
    {
      name: 'the reason, as the operator sees it',
      expected: "add 'DELETE' to ...methods",
      run: () => explained(world),
    },
    answers('reports: a valid certificate, no rule', 403, denied, async () => {
      const direct = toOrders(world, credentialOf(world, 'reports'));
      return direct.ask().finally(direct.end);
    }),
    cutOff('no certificate', 'svid_missing', world, parts, stranger),
    cutOff("web's name, certified by another CA", 'svid_untrusted', world, parts, impostor),
  ];
}

/** The admin port of `orders` shows what would have allowed the DELETE; its sender does not see that. */
async function explained({ ports }: World): Promise<Finding> {
  const page = async (path: string): Promise<unknown> =>
    JSON.parse((await ask({ port: ports.ordersAdmin, path, host: 'localhost' })).body);
  const denials = (await page('/denials')) as { id: string; request: string }[];
  const deleted = denials.find(({ request }) => request.startsWith('DELETE'));
  const { explanation } = (await page(`/why/${deleted?.id}`)) as { explanation: { edits: string[] } };
  const edit = explanation.edits[0] ?? 'no edit';
  return [edit, edit.includes("add 'DELETE' to") && edit.endsWith('.methods')];
}

function changes(world: World, parts: Parts): Step[] {
  return [
    {
      ...{ name: 'a policy is added: reports may read', expected: '200', run: () => policyAdded(world) },
      way: [...atOrders, 'orders'],
    },
    {
      ...{ name: 'reports is revoked', expected: 'cut, then svid_denied', run: () => revoked(world, parts) },
      way: atOrders,
    },
    {
      ...{ name: 'both certificates rotate under load', expected: '0 failed', run: () => rotated(world, parts) },
      way: ['web', 'web-sidecar', 'orders-sidecar', 'orders'],
    },
  ];
}
