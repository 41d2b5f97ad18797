// The program of each worker after the first: a whole sidecar on the same ports, with its share of each limit and
// without pages. The first worker asks it for its facts, and tells it when to leave.

import '../../cert-agent/base/heap.ts';
import { reportBackgroundTo } from '../../cert-agent/base/background.ts';
import { reasonOf } from '../../cert-agent/base/errors.ts';
import { createLog } from '../../cert-agent/base/log.ts';
import { type Sidecar, startSidecar } from './main.ts';
import { WorkerLink } from './worker-link.ts';
import type { Ask, Reply, Said, Told, WorkerPlan } from './workers.ts';

// Replaced once there is a log to reopen.
process.on('SIGUSR1', () => {});
process.on('SIGHUP', () => {});

const plan = JSON.parse(process.argv[2] ?? '{}') as WorkerPlan;
const log = createLog({ component: `sidecar ${plan.index}/${plan.count}` });
reportBackgroundTo(log);

const link = new WorkerLink(tell);
let started: Sidecar | undefined;
const early: Ask[] = [];
/** The app of `sallyport exec` has ended. */
const appGone = Promise.withResolvers<void>();
process.on('message', (said: Said) => {
  if (said.what === 'answers' || said.what === 'told' || said.what === 'inForce') link.heard(said);
  else if (started === undefined) early.push(said);
  else answer(started, said);
});

try {
  const sidecar = await startSidecar({ ...plan, log, link, onReadiness: (readiness) => tell({ readiness }) });
  started = sidecar;
  for (const ask of early) answer(sidecar, ask);
  const leave = (signal?: NodeJS.Signals): void => {
    void sidecar.drain(signal === 'SIGTERM').finally(() => process.exit(0));
  };
  // The first worker is gone: its supervisor restarts all of us.
  process.once('disconnect', () => leave());
  // The first worker passes signals on as well. A signal to the whole group arrives twice, which does no harm.
  // With an app to outlive, only the first worker says when to leave.
  process.on('SIGUSR1', () => sidecar.reopen());
  process.on('SIGHUP', () => sidecar.reopen());
  const stop = plan.wrapping === true ? (): void => {} : leave;
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
} catch (error) {
  log.error({ code: 'worker_failed' }, reasonOf(error));
  process.exitCode = 1;
  process.disconnect?.();
}

function answer(sidecar: Sidecar, ask: Ask): void {
  if (ask.what === 'reload') sidecar.reload();
  else if (ask.what === 'reopen') sidecar.reopen();
  else if (ask.what === 'facts') void sidecar.facts().then((facts) => reply(ask.id, facts));
  else if (ask.what === 'why') reply(ask.id, sidecar.why(ask.decision ?? '') ?? null);
  else if (ask.what === 'appGone') appGone.resolve();
  else
    void sidecar
      .leave(ask.patiently, ask.withApp === true ? appGone.promise : undefined)
      .then((report) => reply(ask.id, report));
}

function reply(id: number, answer: Reply): void {
  tell({ id, answer });
}

function tell(told: Told): void {
  if (process.connected) process.send?.(told);
}
