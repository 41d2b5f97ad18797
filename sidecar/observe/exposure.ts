// The app should listen on loopback only: a client that reaches it on another address bypasses the sidecar and all of
// its policies. The sidecar cannot prevent that, so it checks once a minute, logs and counts.

import { connect } from 'node:net';
import { networkInterfaces } from 'node:os';
import { type Address, isLoopback } from '../../cert-agent/base/address.ts';
import { every, guard } from '../../cert-agent/base/background.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { Counter, type Registry } from '../../cert-agent/base/prometheus.ts';

const everyMs = 60_000;
const answerMs = 1000;

/** Registers the counter. */
export function registerExposure(registry: Registry): Counter {
  return new Counter({
    name: 'sallyport_app_exposed_total',
    help: 'Checks, one a minute for each app, in which it answered on an address other than loopback.',
    registers: [registry],
  });
}

/** Tries the apps' ports on this machine's other addresses once a minute. Returns a function that stops it. */
export function watchExposure(
  apps: () => readonly { readonly app: Address }[],
  registry: Registry,
  log: Log,
): () => void {
  const counter = registerExposure(registry);
  const look = async (): Promise<void> => {
    for (const { app } of apps()) {
      const exposed = await exposureOf(app);
      if (exposed === undefined) continue;
      counter.inc();
      const { host, port, message, mend } = exposed;
      log.warn({ code: 'app_exposed', address: host, port }, `${message}: ${mend}`);
    }
  };
  guard('exposure', look);
  return every('exposure', everyMs, look);
}

/** Where an app can be reached around its sidecar, and what to do about it. */
export interface Exposure {
  readonly host: string;
  readonly port: number;
  readonly message: string;
  readonly mend: string;
}

/** Undefined if the app answers on loopback at most. */
export async function exposureOf(app: Address): Promise<Exposure | undefined> {
  if (!('host' in app)) return undefined;
  const { port } = app;
  // An app on another machine (`unsafePlaintext`) is open to every client that reaches it.
  const isNear = isLoopback(app.host);
  for (const host of isNear ? outerAddresses() : [app.host]) {
    if (!(await answers({ host, port }))) continue;
    const message = `the app answers on ${host}:${port}, which bypasses this sidecar`;
    return {
      host,
      port,
      message,
      mend: isNear ? 'bind it to 127.0.0.1' : 'run it beside the sidecar, and bind it to 127.0.0.1',
    };
  }
  return undefined;
}

function outerAddresses(): string[] {
  const all = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  // Link-local IPv6 needs a scope and is not routed; others could use the rest.
  return all.filter((one) => !one.internal && !one.address.startsWith('fe80:')).map((one) => one.address);
}

/** Whether a connection to `address` is accepted within a second. */
export function answers(address: Address): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(address);
    const done = (answer: boolean): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(answerMs, () => done(false));
    socket.once('connect', () => done(true));
    socket.once('error', () => done(false));
  });
}
