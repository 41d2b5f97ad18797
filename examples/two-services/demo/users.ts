// The steps of users, who come from outside through the gateway. It refuses users without a good token, users who are
// not allowed in, and users who send too many requests. Behind the gateway `web` knows the user.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Answer, ask } from './ask.ts';
import { answers, denied, type Finding, type Step } from './step.ts';
import type { World } from './world.ts';

/** As in gateway/limits.yaml. */
const limit = 10;

export function usersSteps(world: World): Step[] {
  const clerk = () => tokenFor(world, 'user=ada&group=clerks');
  const forged = () => tokenFor(world, 'user=ada&group=clerks&forged');
  const guest = () => tokenFor(world, 'user=bob&group=guests');
  const atGateway = ['user', 'gateway'] as const;
  const atWeb = [...atGateway, 'web-sidecar'] as const;
  return [
    {
      ...answers('a user without a token', 401, 'Jwt is missing', () => askGateway(world)),
      way: atGateway,
    },
    {
      ...answers('a user with a token signed by another key', 401, 'Jwt verification fails', async () =>
        askGateway(world, await forged()),
      ),
      way: atGateway,
    },
    {
      ...answers('a user with a good token: web knows the user', 200, 'orders for ada', async () =>
        askGateway(world, await clerk()),
      ),
      way: [...atWeb, 'web', 'orders-sidecar', 'orders'],
    },
    {
      ...answers('a user who is not a clerk, refused by web', 403, denied, async () =>
        askGateway(world, await guest()),
      ),
      way: atWeb,
    },
    {
      name: `a user with over ${limit} requests a minute`,
      expected: '429 with Retry-After',
      run: () => tooOften(world),
      way: atGateway,
    },
  ];
}

/** A separate user, so that users of the page later have their whole limit. */
async function tooOften(world: World): Promise<Finding> {
  const token = await tokenFor(world, 'user=eve&group=clerks');
  const asked = Array.from({ length: limit + 1 }, () => askGateway(world, token));
  const all = await Promise.all(asked);
  const refused = all.filter(({ status }) => status === 429);
  const passed = all.filter(({ status }) => status === 200).length;
  const after = refused[0]?.headers['retry-after'];
  return [
    `${passed} times 200, then ${refused[0]?.status}, Retry-After: ${after}`,
    passed === limit && refused.length === 1 && Number(after) > 0,
  ];
}

/** Over TLS, as from outside. */
function askGateway({ ports, directory }: World, token?: string): Promise<Answer> {
  const authority = readFileSync(join(directory, 'run', 'front.pem'), 'utf8');
  const question = { port: ports.gatewayHttps, path: '/orders', host: 'localhost', authority };
  return ask(token === undefined ? question : { ...question, token });
}

async function tokenFor({ ports }: World, query: string): Promise<string> {
  return (await ask({ port: ports.issuer, path: `/token?${query}` })).body.trim();
}
