// The program of a worker after the first: a whole sidecar on the same ports, with its share of each cap, without pages of its
// own. The first asks it what it knows, and tells it when to leave.

import '../cert-agent/base/heap.ts';
import { reportBackgroundTo } from '../cert-agent/base/background.ts';
import { reasonOf } from '../cert-agent/base/errors.ts';
import { createLog } from '../cert-agent/base/log.ts';
import { startSidecar } from './main.ts';
import type { Ask, Reply, Told, WorkerPlan } from './workers.ts';

// Until there is something to reopen.
process.on('SIGUSR1', () => {});
process.on('SIGHUP', () => {});

const plan = JSON.parse(process.argv[2] ?? '{}') as WorkerPlan;
const log = createLog({ component: `sidecar ${plan.index}/${plan.count}` });
reportBackgroundTo(log);

try {
  const sidecar = await startSidecar({ ...plan, log, onReadiness: (readiness) => tell({ readiness }) });
  const leave = (): void => {
    void sidecar.drain().finally(() => process.exit(0));
  };
  process.on('message', (ask: Ask) => {
    if (ask.what === 'reload') sidecar.reload();
    else if (ask.what === 'reopen') sidecar.reopen();
    else if (ask.what === 'facts') void sidecar.facts().then((answer) => reply(ask.id, answer));
    else if (ask.what === 'why') reply(ask.id, sidecar.why(ask.decision ?? '') ?? null);
    else void sidecar.leave(ask.waitForApp).then((answer) => reply(ask.id, answer));
  });
  // The first is gone: whoever started it starts all of us anew.
  process.once('disconnect', leave);
  // The first passes them on as well; a signal to the whole group comes twice and does no harm.
  process.on('SIGUSR1', () => sidecar.reopen());
  process.on('SIGHUP', () => sidecar.reopen());
  process.once('SIGTERM', leave);
  process.once('SIGINT', leave);
} catch (error) {
  log.error({ code: 'worker_failed' }, reasonOf(error));
  process.exitCode = 1;
  process.disconnect?.();
}

function reply(id: number, answer: Reply): void {
  tell({ id, answer });
}

function tell(told: Told): void {
  if (process.connected) process.send?.(told);
}
