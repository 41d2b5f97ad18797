// `sallyport ca issuer`: an issuer whose root is kept elsewhere. The work is done in cert-agent/ca/rotation.

import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { asSallyportError } from '../../cert-agent/base/errors.ts';
import type { IssuerOrder } from '../../cert-agent/ca/rotation/issuer.ts';
import { atCa, sameCa, withOperator } from './at-ca.ts';
import { isStopped, type RotateFlags, takeStopped } from './ca-rotate.ts';
import { action, exitCodes, note, print, printJson } from './terminal.ts';

/** The command with its subcommands. */
export function issuerCommand(): Command {
  const request = atCa(new Command('request'))
    .description('Make a new key for the issuer, and print the request that the root must sign')
    .option('--out <path>', 'write the request to a new file')
    .option('--show', 'print the request that waits, instead of making a new one')
    .option('--passphrase-file <path>', 'with --dir of a stopped CA: file with the passphrase of the keys')
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      `
The certificate must be a CA, with the usages keyCertSign and cRLSign and the URI name of the trust domain; the request
asks for all of it. Until it is installed, the CA goes on with its present issuer.

Example:
  sallyport ca issuer request --dir ca --out issuer.csr
  openssl x509 -req -in issuer.csr -CA root.pem -CAkey root.key -days 365 -copy_extensions copy -out issuer.pem
  sallyport ca issuer install issuer.pem --dir ca`,
    )
    .action(action(runRequest));
  const install = atCa(new Command('install'))
    .description('Install the certificate of the request; with a rotation of the root, it is activated later')
    .argument('<file>', 'the certificate, PEM, followed by those between it and the root')
    .option('--passphrase-file <path>', 'with --dir of a stopped CA: file with the passphrase of the keys')
    .option('--json', 'print the result as JSON')
    .addHelpText('after', '\nExample:\n  sallyport ca issuer install issuer.pem --dir ca')
    .action(action(runInstall));
  const cancel = atCa(new Command('cancel'))
    .description('Give up the request that waits, and delete its key')
    .option('--json', 'print the result as JSON')
    .addHelpText('after', '\nExample:\n  sallyport ca issuer cancel --dir ca')
    .action(action(runCancel));
  return new Command('issuer')
    .description('Get the issuer from a root that is kept elsewhere')
    .addCommand(request)
    .addCommand(install)
    .addCommand(cancel);
}

interface RequestFlags extends RotateFlags {
  readonly out?: string;
  readonly show?: boolean;
}

async function runRequest(flags: RequestFlags): Promise<number> {
  const { checkOut, writeOut } = await import('./out-file.ts');
  if (flags.out !== undefined) checkOut(flags.out);
  const { request = '' } = flags.show === true ? await waiting(flags) : await take(flags, { step: 'request' });
  if (flags.out !== undefined) await writeOut(flags.out, request);
  if (flags.json === true) printJson({ request });
  else if (flags.out === undefined) print(request.trimEnd());
  note(`next: have it signed, then sallyport ca issuer install FILE${sameCa(flags)}`);
  return exitCodes.ok;
}

async function runInstall(file: string, flags: RotateFlags): Promise<number> {
  const done = await take(flags, { step: 'install', certificate: readFile(file) });
  if (flags.json === true) printJson(done);
  else print(`installed the issuer SHA-256 ${done.newIssuer}, ${done.prepared ? 'not active yet' : 'active'}`);
  if (done.prepared) note(`next: sallyport ca rotate root distribute${sameCa(flags)}`);
  else if (done.stopped) note(`next: sallyport ca serve${sameCa(flags)}`);
  return exitCodes.ok;
}

async function runCancel(flags: RotateFlags): Promise<number> {
  await take(flags, { step: 'cancel' });
  if (flags.json === true) printJson({ cancelled: true });
  else print('the request is cancelled');
  return exitCodes.ok;
}

interface Taken {
  readonly request?: string | undefined;
  readonly newIssuer?: string | undefined;
  /** It waits for the steps of the root's rotation. */
  readonly prepared: boolean;
  readonly stopped: boolean;
}

/** The request that waits. */
async function waiting(flags: RotateFlags): Promise<{ readonly request: string }> {
  const { SallyportError } = await import('../../cert-agent/base/errors.ts');
  const { readRequest } = await import('../../cert-agent/ca/rotation/request.ts');
  const request = (await isStopped(flags))
    ? readRequest(flags.dir!)
    : await withOperator(flags, async (operator) => (await operator.rotationStatus()).request);
  if (request !== undefined) return { request };
  throw new SallyportError('not_found', 'no request is waiting for a certificate', {
    hint: 'sallyport ca issuer request makes one',
  });
}

async function take(flags: RotateFlags, order: IssuerOrder): Promise<Taken> {
  if (await isStopped(flags)) {
    const { state, request } = await takeStopped(flags, order);
    return { request, newIssuer: state?.newIssuer, prepared: false, stopped: true };
  }
  return withOperator(flags, async (operator) => {
    const { state, request, issuer } = await operator.rotate({ kind: 'issuer', ...order });
    const prepared = state?.step === 'prepared';
    return { request, newIssuer: prepared ? state.newIssuer : issuer.fingerprint, prepared, stopped: false };
  });
}

/** The CA may run elsewhere, so that the file's text is sent, not its name. */
function readFile(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw asSallyportError(error, 'config_unreadable', `cannot read ${file}`);
  }
}
