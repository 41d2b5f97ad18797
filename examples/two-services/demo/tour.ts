// The tour: what is allowed, what is refused, and what changes while everything runs. Each step tries one thing and
// says whether what happened is what should.

import { ask, type Credential } from './ask.ts';
import { policyAdded, revoked } from './changes.ts';
import { rotated } from './rotation.ts';
import { answers, cutOff, denied, type Step, toOrders } from './step.ts';
import { credentialOf, type Parts, type World } from './world.ts';

/** All steps, in the order in which they build on each other. */
export function tourOf(world: World, parts: Parts): readonly Step[] {
  return [...allowedCalls(world), ...refusedCalls(world, parts), ...changes(world, parts)];
}

function allowedCalls({ ports }: World): Step[] {
  const lantern = 'a lantern';
  const port = ports.outbound;
  return [
    answers('the page of web, whose app asks orders', 200, lantern, () => ask({ port: ports.webApp, path: '/' })),
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
    answers('reports: a valid certificate, no rule', 403, denied, async () => {
      const direct = toOrders(world, credentialOf(world, 'reports'));
      return direct.ask().finally(direct.end);
    }),
    cutOff('no certificate', 'svid_missing', world, parts, stranger),
    cutOff("web's name, certified by another CA", 'svid_untrusted', world, parts, impostor),
  ];
}

function changes(world: World, parts: Parts): Step[] {
  return [
    { name: 'a policy is added: reports may read', expected: '200', run: () => policyAdded(world) },
    { name: 'reports is revoked', expected: 'cut, then svid_denied', run: () => revoked(world, parts) },
    { name: 'both certificates rotate under load', expected: '0 failed', run: () => rotated(world, parts) },
  ];
}
