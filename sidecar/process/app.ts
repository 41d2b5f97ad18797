// The app of `sallyport exec`: how it is started, how it gets signals, and how all of it ends.
//
// It leads a session and process group of its own. So each signal reaches it exactly once, from us, also where a
// terminal signals its whole foreground group; and whatever it has started can be ended with it. The price: it has no
// controlling terminal, so a shell in it has no job control and nothing can ask for a password on /dev/tty.
//
// If this process is killed, nothing passes signals on, and the app would go on without mutual TLS and
// policies. Node has no PR_SET_PDEATHSIG, and that would reach the app's first process only. So a guard stands
// by: a shell that reads a pipe whose other end is ours. When the pipe closes without a word, it ends the app's group.

import { type ChildProcess, spawn } from 'node:child_process';
import { accessSync, constants, readdirSync, readFileSync, statSync } from 'node:fs';
import { constants as system } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isatty } from 'node:tty';
import { every } from '../../cert-agent/base/background.ts';
import { errnoOf, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';

/** How long processes that the app leaves behind may take to end, milliseconds. */
const graceMs = 10_000;
const lookMs = 50;
/** How many dead children of others a first process may have before it says so. */
const manyZombies = 20;

/** The app's process and everything in its group. */
export interface App {
  readonly pid: number;
  /** Resolves with its exit code, 128+n where signal n ended it. */
  readonly ended: Promise<number>;
  /** Passes on a signal that this process got. */
  signal(name: NodeJS.Signals): void;
  /** Ends what the app has left running; call it once `ended` has resolved. */
  sweep(): Promise<void>;
}

/**
 * Where `program` is: its path, or the first of that name in PATH.
 * @throws SallyportError `app_not_started`, with the system's error as its cause.
 */
export function findProgram(program: string, path: string): string {
  const candidates = program.includes('/') ? [program] : path.split(delimiter).map((dir) => join(dir || '.', program));
  let cause: unknown;
  for (const file of candidates) {
    try {
      accessSync(file, constants.X_OK);
      if (!statSync(file).isDirectory()) return file;
      cause ??= Object.assign(new Error(`${file} is a directory`), { code: 'EACCES' });
    } catch (error) {
      // As a shell: a file that may not be run says more than the directories without one.
      if (cause === undefined || errnoOf(error) === 'EACCES') cause = error;
    }
  }
  throw notStarted(program, cause);
}

/** The app's environment: ours without what is meant for us. */
export function appEnvironment(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const ours = /^(?:SALLYPORT_.*|NOTIFY_SOCKET|WATCHDOG_PID|WATCHDOG_USEC)$/;
  return Object.fromEntries(Object.entries(env).filter(([name]) => !ours.test(name)));
}

/**
 * Starts the app with our stdin, stdout and stderr, and its arguments as they are.
 * @throws SallyportError `app_not_started`.
 */
export async function startApp(command: readonly [string, ...string[]], log: Log): Promise<App> {
  const [program, ...args] = command;
  const guard = startGuard(log);
  const child = spawn(program, args, { stdio: 'inherit', detached: true, env: appEnvironment(process.env) });
  const ended = endOf(child);
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', (error) => {
      guard.stand();
      reject(notStarted(program, error));
    });
  });
  const pid = child.pid!;
  guard.watch(pid);
  // From a terminal, what a terminal signals goes to all that it would reach. Otherwise the app's process alone gets
  // it, as from Docker, Kubernetes and systemd.
  const fromTerminal = new Set<NodeJS.Signals>(isatty(0) ? ['SIGINT', 'SIGQUIT', 'SIGHUP', 'SIGWINCH'] : []);
  const stopCounting = process.pid === 1 ? countZombies(log) : () => {};
  return {
    pid,
    ended,
    signal: (name) => send(fromTerminal.has(name) ? -pid : pid, name),
    async sweep() {
      await endGroup(pid, log);
      guard.stand();
      stopCounting();
    },
  };
}

function endOf(child: ChildProcess): Promise<number> {
  return new Promise((resolve) => {
    child.once('exit', (code, signal) => resolve(code ?? 128 + (signal === null ? 0 : system.signals[signal])));
  });
}

/** False if there is no such process or group. */
function send(target: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(target, signal);
  } catch (error) {
    // EPERM: it runs as another user, and is there.
    return errnoOf(error) === 'EPERM';
  }
}

/** What is left of the group when its leader has ended. */
async function endGroup(pid: number, log: Log): Promise<void> {
  if (!isAlive(pid)) return;
  log.warn({ code: 'app_left_processes', group: pid }, 'the app has ended and left processes running: they are ended');
  send(-pid, 'SIGTERM');
  const end = performance.now() + graceMs;
  while (isAlive(pid) && performance.now() < end) await sleep(lookMs);
  send(-pid, 'SIGKILL');
}

/** Whether a process of the group runs. A dead one that was not waited for is in the group, too. */
function isAlive(group: number): boolean {
  if (!send(-group, 0)) return false;
  const all = processes();
  return all === undefined || all.some((one) => one.group === group && one.state !== 'Z');
}

interface ProcessFacts {
  readonly state: string;
  readonly parent: number;
  readonly group: number;
}

/** All processes that we can see; undefined without /proc. */
function processes(): ProcessFacts[] | undefined {
  let names: string[];
  try {
    names = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  } catch {
    return undefined;
  }
  return names.flatMap((name) => {
    try {
      // The second field is a name in brackets, which may contain both.
      const [state = '', parent, group] = readFileSync(`/proc/${name}/stat`, 'utf8')
        .replace(/^.*\) /s, '')
        .split(' ');
      return [{ state, parent: Number(parent), group: Number(group) }];
    } catch {
      return [];
    }
  });
}

/** As the first process of a container we are the parent of every orphan, and Node waits for its own children only. */
function countZombies(log: Log): () => void {
  let said = false;
  return every('zombies', 60_000, () => {
    const count = processes()?.filter(({ state, parent }) => parent === process.pid && state === 'Z').length ?? 0;
    if (said || count < manyZombies) return;
    said = true;
    log.warn(
      { code: 'zombies', count },
      `${count} ended processes are kept by the system, because process 1 does not wait for them: start the container with an init (docker run --init; init: true in compose)`,
    );
  });
}

/** What the guard runs. Its first line is the group; a second one stands it down, and the end of its input alarms it. */
const guardScript = `trap '' INT TERM HUP QUIT USR1 USR2
read -r group || exit 0
read -r word && exit 0
kill -s TERM -- "-$group" 2>/dev/null || exit 0
echo '{"level":"error","component":"exec","code":"wrapper_killed","msg":"sallyport exec was killed: its app is ended, because nothing protects it any longer"}' >&2
left=10
while [ "$left" -gt 0 ] && kill -s 0 -- "-$group" 2>/dev/null; do sleep 1; left=$((left - 1)); done
kill -s KILL -- "-$group" 2>/dev/null`;

interface Guard {
  /** From now on the group of `pid` ends with us. */
  watch(pid: number): void;
  /** Ends the guard and leaves the group alone. */
  stand(): void;
}

function startGuard(log: Log): Guard {
  let group: number | undefined;
  let standing = false;
  let shell: ChildProcess | undefined;
  const start = (): void => {
    const child = spawn('/bin/sh', ['-c', guardScript], {
      stdio: ['pipe', 'ignore', 'inherit'],
      // Ctrl-C is not for it.
      detached: true,
      env: { PATH: '/usr/bin:/bin' },
    });
    shell = child;
    child.stdin.on('error', () => {});
    child.once('error', (error) =>
      log.warn(
        { code: 'app_unguarded' },
        `nothing will end the app if this process is killed: /bin/sh cannot be started: ${reasonOf(error)}`,
      ),
    );
    // Killed by hand, or for want of memory.
    child.once('exit', () => {
      if (!standing) setTimeout(() => standing || start(), 1000).unref();
    });
    if (group !== undefined) child.stdin.write(`${group}\n`);
  };
  start();
  return {
    watch(pid) {
      group = pid;
      shell?.stdin?.write(`${pid}\n`);
    },
    stand() {
      standing = true;
      shell?.stdin?.end('done\ndone\n');
    },
  };
}

function notStarted(program: string, cause: unknown): SallyportError {
  const missing = errnoOf(cause) === 'ENOENT' || cause === undefined;
  const why = missing ? 'there is no such program' : reasonOf(cause);
  return new SallyportError('app_not_started', `cannot start ${program}: ${why}`, { cause });
}
