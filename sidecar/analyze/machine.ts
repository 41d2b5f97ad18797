// What `sallyport doctor` finds in the limits of a container and in a pod: read from files, judged by pure functions.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { decodeJwt } from 'jose';
import { formatDuration } from '../../cert-agent/base/clock.ts';
import { reasonOf } from '../../cert-agent/base/errors.ts';
import { systemLookup } from '../upstream/resolve.ts';
import { bad, ok, poor, type Result, skipped } from './result.ts';

/** What a control group allows; undefined where it sets no limit. */
export interface Cgroup {
  readonly memoryBytes: number | undefined;
  /** Cores, such as 0.5. */
  readonly cpus: number | undefined;
  readonly processes: number | undefined;
  /** How often the kernel has ended a process of it for want of memory. */
  readonly killed: number;
}

/** A sidecar takes some 80 MB under load, and the process that reads its configuration half of that for a moment. */
const leastMemoryBytes = 128 * 1024 * 1024;
/** Below this a handshake waits for the next period of the scheduler. */
const leastCpus = 0.1;
/** A process has some twelve threads. */
const leastProcesses = 64;

/** The limits of our own control group, of version 2; none elsewhere. `root` is where the file system begins. */
export function readCgroup(root = '/'): Cgroup {
  const own = /^0::(.*)$/m.exec(textOf(join(root, 'proc/self/cgroup')) ?? '')?.[1] ?? '/';
  const read = (name: string): string | undefined => textOf(join(root, 'sys/fs/cgroup', own, name));
  const number = (name: string): number | undefined => {
    const text = read(name)?.trim();
    return text === undefined || !/^\d+$/.test(text) ? undefined : Number(text);
  };
  const [, quota, period] = /^(\d+) (\d+)/.exec(read('cpu.max') ?? '') ?? [];
  return {
    memoryBytes: number('memory.max'),
    cpus: quota === undefined ? undefined : Number(quota) / Number(period),
    processes: number('pids.max'),
    killed: Number(/^oom_kill (\d+)$/m.exec(read('memory.events') ?? '')?.[1] ?? 0),
  };
}

/** What is too narrow. */
export function cgroupResults({ memoryBytes, cpus, processes, killed }: Cgroup): Result[] {
  const found: Result[] = [];
  if (memoryBytes !== undefined && memoryBytes < leastMemoryBytes)
    found.push(poor('limits', `${Math.round(memoryBytes / 1_048_576)} MB of memory`, 'allow 128 MB or more'));
  if (killed > 0)
    found.push(
      poor('limits', `the kernel has ended ${killed} processes here for want of memory`, 'raise the limit of memory'),
    );
  if (cpus !== undefined && cpus < leastCpus)
    found.push(poor('limits', `${cpus} of a CPU: handshakes will wait`, 'allow 0.1 of a CPU or more'));
  if (processes !== undefined && processes < leastProcesses)
    found.push(poor('limits', `${processes} processes and threads`, `allow ${leastProcesses} or more`));
  return found;
}

const tokenFile = 'var/run/secrets/kubernetes.io/serviceaccount/token';

/** What a pod has: the token of its service account, and the cluster's DNS. */
export async function podResults(
  env: NodeJS.ProcessEnv,
  now: number,
  root = '/',
  lookup: (host: string) => Promise<unknown> = systemLookup,
): Promise<Result[]> {
  if (env['KUBERNETES_SERVICE_HOST'] === undefined) return [skipped('pod', 'this is no pod')];
  const found = [...tokenResults(textOf(join(root, tokenFile)), now), await clusterDns(lookup)];
  return found;
}

/** A token that is not there need not be: only some kinds of evidence use it. */
function tokenResults(text: string | undefined, now: number): Result[] {
  if (text === undefined) return [skipped('pod', 'no token of a service account is mounted')];
  try {
    const { exp, sub } = decodeJwt(text.trim());
    const leftMs = (exp ?? Number.POSITIVE_INFINITY) * 1000 - now;
    if (leftMs <= 0)
      return [
        bad('pod', `the token of ${sub} has expired`, 'the kubelet renews it: restart the pod, and check the clock'),
      ];
    if (exp === undefined)
      return [poor('pod', `the token of ${sub} never ends`, 'mount a projected one (serviceAccountToken) instead')];
    return [ok('pod', `the token of ${sub} is valid for another ${formatDuration(leftMs)}`)];
  } catch (error) {
    return [bad('pod', `${tokenFile} is no token: ${reasonOf(error)}`, 'mount the token of the service account there')];
  }
}

async function clusterDns(lookup: (host: string) => Promise<unknown>): Promise<Result> {
  const name = 'kubernetes.default.svc';
  try {
    await lookup(name);
    return ok('pod', "the cluster's DNS answers");
  } catch (error) {
    const fix = 'is dnsPolicy ClusterFirst, and does a NetworkPolicy allow port 53?';
    return poor('pod', `${name} is not found: ${reasonOf(error)}`, fix);
  }
}

function textOf(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return undefined;
  }
}
