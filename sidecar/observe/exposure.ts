// The app should listen on loopback only: a client that reaches it on another address bypasses the sidecar and all of
// its policies. The sidecar cannot prevent that, so it checks once a minute, logs and counts.

import { connect } from 'node:net';
import { networkInterfaces } from 'node:os';
import { Counter, type Registry } from 'prom-client';
import { type Address, isLoopback } from '../../cert-agent/base/address.ts';
import { every, guard } from '../../cert-agent/base/background.ts';
import type { Log } from '../../cert-agent/base/log.ts';

const everyMs = 60_000;
const answerMs = 1000;

/** Tries the apps' ports on this machine's other addresses once a minute. Returns a function that stops it. */
export function watchExposure(
  apps: () => readonly { readonly app: Address }[],
  registry: Registry,
  log: Log,
): () => void {
  const counter = new Counter({
    name: 'sallyport_app_exposed_total',
    help: 'Times that an app answered on an address other than loopback.',
    registers: [registry],
  });
  const look = async (): Promise<void> => {
    for (const { app } of apps()) {
      if (!('host' in app)) continue;
      // An app on another machine (`unsafePlaintext`) is open to every client that reaches it.
      const isNear = isLoopback(app.host);
      for (const host of isNear ? outerAddresses() : [app.host]) {
        if (!(await answers(host, app.port))) continue;
        counter.inc();
        const mend = isNear ? 'bind it to 127.0.0.1' : 'run it beside the sidecar, and bind it to 127.0.0.1';
        log.warn(
          { code: 'app_exposed', address: host, port: app.port },
          `the app answers on ${host}:${app.port}, which bypasses this sidecar: ${mend}`,
        );
        break;
      }
    }
  };
  guard('exposure', look);
  return every('exposure', everyMs, look);
}

function outerAddresses(): string[] {
  const all = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  // Link-local IPv6 needs a scope and is not routed; others could use the rest.
  return all.filter((one) => !one.internal && !one.address.startsWith('fe80:')).map((one) => one.address);
}

function answers(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port });
    const done = (answer: boolean): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(answerMs, () => done(false));
    socket.once('connect', () => done(true));
    socket.once('error', () => done(false));
  });
}
