// Reports to the agent which identity this process uses, where an agent writes our files: it tells the CA, which waits
// for it before it activates a new root. Without an agent nothing happens.

import { existsSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { every, guard } from '../base/background.ts';
import type { Live } from '../base/live.ts';
import type { Identity } from './identity.ts';
import { fingerprintOf } from './verify.ts';

/** The agent's socket in its directory. */
export function useSocketOf(outDir: string): string {
  return join(outDir, 'agent.sock');
}

const againMs = 1000;

/**
 * Reports each identity of `identity`, which comes from the files beside `svidFile`, until the result is called.
 * `settled` resolves once connections that it does not allow have ended.
 */
export function reportUse(
  identity: Live<Identity | undefined>,
  svidFile: string,
  settled: () => Promise<void>,
): () => void {
  const path = useSocketOf(dirname(svidFile));
  let socket: Socket | undefined;
  async function tell(): Promise<void> {
    await settled();
    const used = identity.current();
    const bundle = used?.bundles.get(used.svid.id.trustDomain);
    if (socket === undefined || used === undefined || bundle === undefined) return;
    const roots = bundle.roots.map(fingerprintOf);
    socket.write(`${JSON.stringify({ bundle: bundle.sequence, denied: used.denied.sequence, roots })}\n`);
  }
  function tryAgain(): void {
    if (socket !== undefined || !existsSync(path)) return;
    const opened = connect(path);
    opened.unref();
    opened.on('error', () => {});
    opened.once('connect', () => {
      socket = opened;
      guard('report_use', tell);
    });
    opened.once('close', () => {
      socket = undefined;
    });
    // The agent sends nothing.
    opened.resume();
  }
  const stop = every('report_use', againMs, tryAgain);
  tryAgain();
  // Those who verify peers with it hear of it in this turn, and the agent afterwards.
  const stopChange = identity.onChange(() => setImmediate(() => guard('report_use', tell)));
  return () => {
    stop();
    stopChange();
    socket?.destroy();
  };
}
