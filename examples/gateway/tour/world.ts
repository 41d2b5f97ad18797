// The tour's environment: the example's own files with free ports, in a temporary directory, and every process of the
// picture in the README.

import {
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { writeCertificate } from '../../two-services/certificate.ts';
import { ask } from '../../two-services/demo/ask.ts';
import { findPorts, type Ports, withPorts } from '../../two-services/demo/ports.ts';
import { Processes } from '../../two-services/demo/processes.ts';
import { giveToken, isReady, startAgent, startCa, type World } from '../../two-services/demo/world.ts';

const example = fileURLToPath(new URL('..', import.meta.url));
const twoServices = fileURLToPath(new URL('../../two-services', import.meta.url));

/** The processes that refuse, by the names of their logs. */
export type Guard = 'gateway' | 'web-sidecar' | 'orders-sidecar';

const adminPorts: Readonly<Record<Guard, keyof Ports>> = {
  gateway: 'gatewayAdmin',
  'web-sidecar': 'webAdmin',
  'orders-sidecar': 'ordersAdmin',
};

/** Makes the directory, with every layer in force. Starts no process. */
export async function makeWorld(): Promise<World> {
  const ports = await findPorts();
  const directory = mkdtempSync(join(realpathSync(tmpdir()), 'sallyport-gateway-'));
  const world = { directory, ports, processes: new Processes(directory) };
  mkdirSync(join(directory, 'run'));
  for (const name of globSync(['*.yaml', '{documents,policies}/**/*.yaml'], { cwd: example }))
    putFile(world, name, name);
  return world;
}

/** Replaces `place` atomically with the example's file `source`, or removes it. */
export function putFile({ directory, ports }: World, place: string, source: string | undefined): void {
  const path = join(directory, place);
  if (source === undefined) return rmSync(path, { force: true });
  mkdirSync(dirname(path), { recursive: true });
  const made = join(directory, 'run', 'next.yaml');
  writeFileSync(made, withPorts(readFileSync(join(example, source), 'utf8'), ports));
  renameSync(made, path);
}

/** Starts all of it; resolves when all of it is ready. */
export async function startWorld(world: World): Promise<void> {
  const { processes, ports, directory } = world;
  const app = (name: string, file: string, env: NodeJS.ProcessEnv): void => void processes.node(name, [file], env);
  const ordersUrl = `http://127.0.0.1:${ports.toOrders}`;
  app('orders-app', join(twoServices, 'orders.ts'), { PORT: String(ports.ordersApp) });
  app('web-app', join(example, 'web.ts'), { PORT: String(ports.webApp), ORDERS_URL: ordersUrl });
  app('issuer', join(twoServices, 'issuer.ts'), { PORT: String(ports.issuer) });
  await Promise.all([writeCertificate(join(directory, 'run', 'front'), '*.demo.test'), startCa(world, 'ca', ports.ca)]);
  processes.sallyport('gateway', 'gateway', '--config', 'gateway.yaml');
  for (const name of ['web', 'orders']) processes.sallyport(`${name}-sidecar`, 'sidecar', '--config', `${name}.yaml`);
  startAgent(world, 'reports', ports.reportsAgent);
  await Promise.all(['gateway', 'web', 'orders', 'reports'].map((name) => giveToken(world, 'ca', name)));
  for (const name of ['gatewayHealth', 'webHealth', 'ordersHealth', 'reportsAgent'] as const)
    await processes.until(() => isReady(ports[name]), `${name} to be ready`);
  for (const name of ['ordersApp', 'webApp', 'issuer'] as const)
    await processes.until(() => ask({ port: ports[name] }), `${name} to answer`);
}

/** The number of the configuration that `guard` uses. */
export async function generationOf({ ports }: World, guard: Guard): Promise<number> {
  const { body } = await ask({ port: ports[adminPorts[guard]], path: '/state' });
  return (JSON.parse(body) as { generation: number }).generation;
}

/** Its log and access log so far, one JSON object per line. */
export function logOf({ processes }: World, guard: Guard): string {
  return readFileSync(processes.logFile(guard), 'utf8');
}

/** The explanation of a refusal, as `sallyport why` shows it. */
export async function whyOf(
  { ports }: World,
  guard: Guard,
  id: string,
): Promise<{ readonly code?: string; readonly explanation?: object | null }> {
  const { body } = await ask({ port: ports[adminPorts[guard]], path: `/why/${id}` });
  return JSON.parse(body) as { code?: string; explanation?: object | null };
}
