// The demo's environment: the example's own files with free ports, in a temporary directory, and everything that the
// README starts by hand, each as its own process.

import {
  copyFileSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { writeCertificate } from '../certificate.ts';
import { ask, type Credential, idOf, readCredential } from './ask.ts';
import { findPorts, type Ports, withPorts } from './ports.ts';
import { say } from './print.ts';
import { Processes, type Running } from './processes.ts';

const example = fileURLToPath(new URL('..', import.meta.url));

export interface World {
  readonly directory: string;
  readonly ports: Ports;
  readonly processes: Processes;
}

/** The processes to which the tour sends signals, or whose log it reads. */
export interface Parts {
  readonly ordersSidecar: Running;
  readonly webAgent: Running;
}

/** The current credential of the agent of `name`. */
export function credentialOf({ directory }: World, name: string): Credential {
  return readCredential(join(directory, 'run', name));
}

/** The page's address for a browser: through the gateway. */
export function pageOf({ ports }: World): string {
  return `http://127.0.0.1:${ports.gatewayHttp}/`;
}

/** Makes the directory. Starts no process. */
export async function makeWorld(): Promise<World> {
  const ports = await findPorts();
  const directory = mkdtempSync(join(realpathSync(tmpdir()), 'sallyport-demo-'));
  for (const name of ['run', 'policies', 'gateway']) mkdirSync(join(directory, name));
  const files = ['web.yaml', 'orders.yaml', 'gateway.yaml', ...globSync('{policies,gateway}/*.yaml', { cwd: example })];
  for (const name of files) {
    writeFileSync(join(directory, name), withPorts(readFileSync(join(example, name), 'utf8'), ports));
  }
  return { directory, ports, processes: new Processes(directory) };
}

/** Ends every process and removes the directory, unless its logs are needed. */
export async function endWorld({ directory, processes }: World, { keepFiles = false } = {}): Promise<void> {
  await processes.stopAll();
  if (!keepFiles) rmSync(directory, { recursive: true, force: true, maxRetries: 3 });
}

/** Puts another of the example's policies in force. */
export function addPolicy({ directory }: World, name: string): void {
  copyFileSync(join(example, name), join(directory, 'policies', name));
}

/** Starts everything; resolves when everything is ready. */
export async function startWorld(world: World): Promise<Parts> {
  const [parts] = await Promise.all([startShop(world), borrowOtherCertificate(world)]);
  return parts;
}

async function startShop(world: World): Promise<Parts> {
  const { processes, ports } = world;
  startApps(world);
  const front = writeCertificate(join(world.directory, 'run', 'front'), 'localhost');
  await startCa(world, 'ca', ports.ca);
  // The start order does not matter: a process without its token, certificate or peer waits for it.
  const ordersSidecar = startSidecar(world, 'orders');
  const webAgent = startAgent(world, 'web', ports.webAgent);
  startSidecar(world, 'web');
  startAgent(world, 'reports', ports.reportsAgent);
  await front;
  startGateway(world);
  await Promise.all(['orders', 'web', 'reports', 'gateway'].map((name) => giveToken(world, 'ca', name)));
  await Promise.all(
    (['ordersHealth', 'webHealth', 'webAgent', 'reportsAgent', 'gatewayHealth'] as const).map((name) =>
      processes.until(() => isReady(ports[name]), `${name} to be ready`),
    ),
  );
  for (const name of ['ordersApp', 'webApp', 'issuer', 'page'] as const) {
    await processes.until(() => ask({ port: ports[name] }), `${name} to answer`);
  }
  return { ordersSidecar, webAgent };
}

function startApps({ processes, ports }: World): void {
  const app = (name: string): string[] => [join(example, `${name}.ts`)];
  const orders = processes.node('orders-app', app('orders'), { PORT: String(ports.ordersApp) });
  const ordersUrl = `http://127.0.0.1:${ports.toOrders}`;
  const web = processes.node('web-app', app('web'), { PORT: String(ports.webApp), ORDERS_URL: ordersUrl });
  sayStarted(orders, `the service orders, plain HTTP on 127.0.0.1:${ports.ordersApp}`);
  sayStarted(web, `the service web, plain HTTP on 127.0.0.1:${ports.webApp}`);
  const issuer = processes.node('issuer', app('issuer'), { PORT: String(ports.issuer) });
  sayStarted(issuer, `an issuer of tokens for users, on 127.0.0.1:${ports.issuer}`);
  const page = processes.node('page', app('page'), { PORT: String(ports.page), TOUR: 'run/tour.jsonl' });
  sayStarted(page, `the page that shows this in a browser, behind the gateway`);
}

/** Makes a CA in run/`name` and starts it; resolves when it listens. */
export async function startCa({ processes }: World, name: string, port: number): Promise<Running> {
  await processes.run('ca', 'init', '--trust-domain', 'demo.test', '--dir', join('run', name));
  const listen = `127.0.0.1:${port}`;
  const ca = processes.sallyport(name, 'ca', 'serve', '--dir', join('run', name), '--listen', listen);
  await processes.until(() => ca.log().includes('"code":"listening"'), `the CA of run/${name}`);
  if (name === 'ca') sayStarted(ca, `the CA of demo.test, on ${listen}`);
  return ca;
}

function startSidecar({ processes, ports }: World, name: 'web' | 'orders'): Running {
  const sidecar = processes.sallyport(`${name}-sidecar`, 'sidecar', '--config', `${name}.yaml`);
  const ways = { web: `from ${ports.outbound} and ${ports.toOrders} to its peers`, orders: `from ${ports.inbound} in` };
  sayStarted(sidecar, `the sidecar of ${name}, ${ways[name]}${name === 'orders' ? ', with an agent inside' : ''}`);
  return sidecar;
}

function startGateway({ processes, ports }: World): void {
  const gateway = processes.sallyport('gateway', 'gateway', '--config', 'gateway.yaml');
  sayStarted(gateway, `the gateway, HTTPS on 127.0.0.1:${ports.gatewayHttps} and HTTP on ${ports.gatewayHttp}`);
}

export function startAgent({ processes, ports }: World, name: string, admin: number): Running {
  const ca = ['--ca', `https://127.0.0.1:${ports.ca}`, '--ca-bundle', 'run/ca/bundle.pem'];
  const rest = ['--token-file', `run/${name}.token`, '--out-dir', `run/${name}`, '--admin', `127.0.0.1:${admin}`];
  const agent = processes.sallyport(`${name}-agent`, 'agent', ...ca, ...rest);
  sayStarted(agent, `an agent that keeps the certificate of ${name} fresh`);
  return agent;
}

export async function giveToken({ processes, directory }: World, ca: string, name: string): Promise<void> {
  const token = await processes.run('ca', 'token', 'create', '--dir', join('run', ca), '--spiffe-id', idOf(name));
  const file = ca === 'ca' ? `${name}.token` : `${ca}-${name}.token`;
  writeFileSync(join(directory, 'run', file), token, { mode: 0o600 });
}

/** Gets a certificate for `web` from another CA of the same name, which is stopped afterwards. */
async function borrowOtherCertificate(world: World): Promise<void> {
  const { processes, ports } = world;
  const ca = await startCa(world, 'other-ca', ports.otherCa);
  await giveToken(world, 'other-ca', 'web');
  const from = ['--ca', `https://127.0.0.1:${ports.otherCa}`, '--ca-bundle', 'run/other-ca/bundle.pem'];
  const rest = ['--token-file', 'run/other-ca-web.token', '--out-dir', 'run/other-web'];
  const agent = processes.sallyport('other-agent', 'agent', ...from, ...rest);
  await processes.until(() => agent.log().includes('"code":"svid_received"'), "the other CA's certificate");
  await Promise.all([agent.stop(), ca.stop()]);
}

export async function isReady(port: number): Promise<boolean> {
  return (await ask({ port, path: '/healthz/ready' })).status === 200;
}

export function sayStarted({ pid }: Running, what: string): void {
  say(`        started ${what} (pid ${pid})`);
}
