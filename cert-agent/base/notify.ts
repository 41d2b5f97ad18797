// Tells systemd when this process is ready, what it waits for and that it stops (sd_notify). The socket is a Unix
// datagram socket, which Node cannot open, so systemd's own command writes to it. Units need NotifyAccess=all.

import { spawn } from 'node:child_process';

/** Says each state once. All are no-ops where NOTIFY_SOCKET is not set. */
export interface Notify {
  ready(): void;
  waiting(waitingFor: readonly string[]): void;
  /** The last word: what follows is not said. */
  stopping(): void;
}

const silent: Notify = Object.freeze({ ready() {}, waiting() {}, stopping() {} });

/** `failed` is called with the reason when the command cannot be run or fails; at most once. */
export function createNotify(env: NodeJS.ProcessEnv, failed: (why: string) => void): Notify {
  const socket = env['NOTIFY_SOCKET'];
  if (socket === undefined || socket === '') return silent;
  let last = Promise.resolve();
  let said = '';
  let complained = false;
  let stopped = false;
  const complain = (why: string): void => {
    if (!complained) failed(why);
    complained = true;
  };
  const run = (args: readonly string[]): void => {
    const text = args.join(' ');
    if (text === said || stopped) return;
    said = text;
    // One after the other, or an old status could come last.
    last = last.then(
      () =>
        new Promise<void>((resolve) => {
          const child = spawn('systemd-notify', args, {
            stdio: 'ignore',
            env: { PATH: env['PATH'], NOTIFY_SOCKET: socket },
          });
          child.once('error', (error) => {
            complain(`systemd-notify cannot be started: ${error.message}`);
            resolve();
          });
          child.once('exit', (code, signal) => {
            if (code !== 0) complain(`systemd-notify ended with ${signal ?? code}`);
            resolve();
          });
        }),
    );
  };
  return {
    ready: () => run(['--ready', '--status=ready']),
    // One line: a line break would begin another assignment.
    waiting: (waitingFor) => run([`--status=waiting for ${waitingFor.join('; ').replace(/\s+/g, ' ').slice(0, 500)}`]),
    stopping() {
      run(['STOPPING=1', '--status=stopping']);
      stopped = true;
    },
  };
}
