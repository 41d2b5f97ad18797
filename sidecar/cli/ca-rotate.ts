// `sallyport ca rotate`: a new issuer or root for a CA, step by step. The work is done in cert-agent/ca/rotation.

import { Command } from 'commander';
import type { IssuerOrder } from '../../cert-agent/ca/rotation/issuer.ts';
import type { RotationStatus, RotationStep } from '../../cert-agent/ca/rotation/rotation.ts';
import type { StoppedStep } from '../../cert-agent/ca/rotation/stopped.ts';
import { type AtCa, atCa, sameCa, usage, withOperator } from './at-ca.ts';
import { action, exitCodes, note, print, printJson, printTable } from './terminal.ts';

/** The options of the commands that rotate something. */
export interface RotateFlags extends AtCa {
  readonly rootKey?: string;
  readonly passphraseFile?: string;
  readonly externalRoot?: string;
  readonly except?: readonly string[];
}

const steps: readonly RotationStep[] = ['prepare', 'distribute', 'activate', 'remove', 'cancel'];

/** The command with its subcommands. */
export function rotateCommand(): Command {
  const issuer = atCa(new Command('issuer'))
    .description('Replace the issuing intermediate. Peers need nothing: they verify it by the same root.')
    .option('--root-key <file>', "the root's key (default: root.key in the CA's directory)")
    .option('--passphrase-file <path>', 'with --dir of a stopped CA: file with the passphrase of the keys')
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      `
A running CA does this by itself at half of the issuer's life, if root.key is in its directory.

Example:
  sallyport ca rotate issuer --dir ca --root-key /media/safe/root.key`,
    )
    .action(action(rotateIssuer));
  const root = atCa(new Command('root'))
    .description('Replace the root, in steps: prepare, distribute, activate, remove; or cancel')
    .argument('<step>', steps.join(', '))
    .option('--root-key <file>', "with prepare: the present root's key (default: root.key in the CA's directory)")
    .option('--external-root <file>', 'with prepare: a new root whose key is kept elsewhere, PEM')
    .option(
      '--except <name...>',
      'with activate and remove: go on without these workloads (SPIFFE IDs, or last parts that are unambiguous)',
    )
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      `
prepare     makes a new root and issuer, and certifies the new root by the old one; with --external-root it makes a
            request (sallyport ca issuer request --show), which the new root signs for sallyport ca issuer install
distribute  puts the new root into the bundle; agents acknowledge it once their sidecars use it
activate    the new issuer signs; refused while an agent's sidecars do not trust the new root, or an agent with a valid
            certificate is not connected
remove      takes the old root out of the bundle; refused while a certificate of the old root is valid
cancel      gives up, before activate

An agent counts until its certificate expires (EXPIRES in the status), also if its workload has joined again with a new
token. --except goes on without it, and the answer and the ledger say whom it left behind.

Copies of the bundle outside of agents must be replaced before remove: those of federated trust domains, load
balancers, new workloads (bundle.pem).

Example:
  sallyport ca rotate root prepare --dir ca
  sallyport ca rotate status --dir ca`,
    )
    .action(action(rotateRoot));
  const status = atCa(new Command('status'))
    .description('Show what is under way, and which workloads the next step would lock out')
    .option('--json', 'print the result as JSON')
    .addHelpText('after', '\nExample:\n  sallyport ca rotate status --dir ca')
    .action(action(showStatus));
  return new Command('rotate')
    .description('Replace the issuer or the root of a CA while it runs')
    .addCommand(issuer)
    .addCommand(root)
    .addCommand(status);
}

async function rotateIssuer(flags: RotateFlags): Promise<number> {
  const rootKey = await absolute(flags.rootKey);
  if (await isStopped(flags)) {
    const { state } = await takeStopped(flags, { step: 'activate', rootKey });
    const newIssuer = state?.newIssuer;
    if (flags.json === true) printJson({ newIssuer });
    else print(`the new issuer is SHA-256 ${newIssuer}; start the CA with sallyport ca serve${sameCa(flags)}`);
    return exitCodes.ok;
  }
  return withOperator(flags, async (operator) => {
    const keyFile = rootKey === undefined ? {} : { rootKey };
    const status = await operator.rotate({ kind: 'issuer', step: 'activate', ...keyFile });
    if (flags.json === true) printJson(await withTimes(status));
    else print(`the issuer is SHA-256 ${status.issuer.fingerprint}, until ${await timeOf(status.issuer.notAfter)}`);
    return exitCodes.ok;
  });
}

async function rotateRoot(text: string, flags: RotateFlags): Promise<number> {
  const step = steps.find((one) => one === text);
  if (step === undefined) throw usage(`'${text}' is not a step of a rotation`, `choose ${steps.join(', ')}`);
  const rootKey = await absolute(flags.rootKey);
  const externalRoot = await absolute(flags.externalRoot);
  return withOperator(flags, async (operator) => {
    const status = await operator.rotate({
      ...{ kind: 'root', step },
      ...(flags.except === undefined ? {} : { except: flags.except }),
      ...(rootKey === undefined ? {} : { rootKey }),
      ...(externalRoot === undefined ? {} : { externalRoot }),
    });
    if (flags.json === true) printJson(await withTimes(status));
    else await show(status, flags);
    return exitCodes.ok;
  });
}

async function showStatus(flags: RotateFlags): Promise<number> {
  return withOperator(flags, async (operator) => {
    const status = await operator.rotationStatus();
    if (flags.json === true) printJson(await withTimes(status));
    else await show(status, flags);
    return exitCodes.ok;
  });
}

/** The status with its times as text. */
async function withTimes({ state, issuer, stragglers, ...rest }: RotationStatus): Promise<object> {
  const { formatTime } = await import('../../cert-agent/base/clock.ts');
  const shown = (ms: number | undefined): string | undefined => (ms === undefined ? undefined : formatTime(ms));
  return {
    ...rest,
    state: state && { ...state, startedAt: shown(state.startedAt), activatedAt: shown(state.activatedAt) },
    issuer: { ...issuer, notBefore: shown(issuer.notBefore), notAfter: shown(issuer.notAfter) },
    stragglers: stragglers.map((one) => ({ ...one, until: shown(one.until) })),
  };
}

async function show(status: RotationStatus, flags: RotateFlags): Promise<void> {
  const { state, stragglers, more = 0, excepted = [], by, of, next, issuer, roots } = status;
  print(`issuer    SHA-256 ${issuer.fingerprint}`);
  print(`valid     ${await timeOf(issuer.notBefore)} to ${await timeOf(issuer.notAfter)}`);
  for (const root of roots) print(`root      SHA-256 ${root}${root === state?.newRoot ? ' (new)' : ''}`);
  for (const id of excepted) print(`excepted  ${id}`);
  if (state === null) return print('rotation  none is under way');
  print(`rotation  of the ${state.kind}, ${state.step} since ${await timeOf(state.activatedAt ?? state.startedAt)}`);
  if (state.kind === 'root') {
    const what = state.step === 'draining' ? 'have certificates of the new root' : 'trust the new root';
    print(`agents    ${by} of ${of} ${what}`);
    const rows = await Promise.all(
      stragglers.map(async (one) => [one.id, placesOf(one), one.until === undefined ? '' : await timeOf(one.until)]),
    );
    if (rows.length > 0) printTable(['NOT YET', 'AGENT', 'EXPIRES'], rows, '');
    if (more > 0) print(`and ${more} more`);
  }
  if (state.step === 'draining')
    note('before that, replace copies of bundle.pem outside of agents: new workloads, load balancers, other domains');
  if (next !== undefined) note(`next: ${next}${sameCa(flags)}`);
}

function placesOf({ agents, late, notConnected }: RotationStatus['stragglers'][number]): string {
  if (agents === 1) return late === 1 ? 'connected' : 'not connected';
  const parts = [
    ...(late > 0 ? [`${late} connected`] : []),
    ...(notConnected > 0 ? [`${notConnected} not connected`] : []),
  ];
  return `${parts.join(', ')} of ${agents}`;
}

async function timeOf(ms: number): Promise<string> {
  return (await import('../../cert-agent/base/clock.ts')).formatTime(ms);
}

async function absolute(path: string | undefined): Promise<string | undefined> {
  if (path === undefined) return undefined;
  return (await import('../../cert-agent/base/write.ts')).absolutePath(path);
}

/** Takes a step of the issuer in the directory of a CA that does not run. */
export async function takeStopped(flags: RotateFlags, order: IssuerOrder): Promise<StoppedStep> {
  const { rotateStopped } = await import('../../cert-agent/ca/rotation/stopped.ts');
  const { readPassphrase } = await import('../../cert-agent/ca/passphrase.ts');
  return rotateStopped((await absolute(flags.dir))!, order, readPassphrase(flags.passphraseFile, process.env, note));
}

/** True if `--dir` is the directory of a CA that does not run. */
export async function isStopped({ dir, socket }: RotateFlags): Promise<boolean> {
  if (dir === undefined || socket !== undefined) return false;
  const { socketFileOf } = await import('../../cert-agent/ca/directory.ts');
  const { answersAt } = await import('../../cert-agent/ca/operator/socket.ts');
  return !(await answersAt(socketFileOf(dir)));
}
