// `sallyport ca list` and `show`: the certificates that a CA has issued.

import { Command } from 'commander';
import type { Operator } from '../../cert-agent/ca/operator/operator.ts';
import { type AtCa, atCa, durationOf, usage, withOperator } from './at-ca.ts';
import { action, exitCodes, print, printJson, printTable } from './terminal.ts';

export function listCommand(): Command {
  return atCa(new Command('ls'))
    .description('List valid certificates by expiry')
    .option('--all', "include expired certificates, and the CA's own")
    .option('--expiring <duration>', 'only those that expire within this time')
    .option('--by <what>', 'service: one line for each SPIFFE ID')
    .option('--json', 'print them as JSON')
    .addHelpText(
      'after',
      `
Example:
  sallyport ca ls --dir ca --expiring 24h
  sallyport ca ls --dir ca --by service`,
    )
    .action(action(runList));
}

async function runList(flags: AtCa & { all?: boolean; expiring?: string; by?: string }): Promise<number> {
  const { formatTime } = await import('../../cert-agent/base/clock.ts');
  const expiringMs = flags.expiring === undefined ? undefined : await durationOf(flags.expiring, '--expiring');
  if (flags.by !== undefined) {
    if (flags.by !== 'service') throw usage(`--by ${flags.by}: only --by service groups certificates`);
    return runListByService(flags, expiringMs);
  }
  const { allCertificates } = await import('../../cert-agent/ca/operator/identities.ts');
  return withOperator(flags, async (operator) => {
    const found: ReturnType<typeof withTimes>[] = [];
    for await (const one of allCertificates(operator, { all: flags.all, expiringMs }))
      if (flags.all === true || one.evidence !== 'self') found.push(withTimes(one, formatTime));
    if (flags.json === true) printJson(found);
    else {
      const rows = found.map((one) => [
        one.serial,
        one.id,
        one.notAfter,
        one.evidence,
        one.revoked === undefined ? '' : `revoked: ${one.revoked.reason}`,
      ]);
      printTable(['SERIAL', 'SPIFFE ID', 'EXPIRES', 'FOR', 'STATE'], rows, 'no certificates');
    }
    return exitCodes.ok;
  });
}

async function runListByService(flags: AtCa & { all?: boolean }, expiringMs: number | undefined): Promise<number> {
  const { formatTime } = await import('../../cert-agent/base/clock.ts');
  const { allIdentities } = await import('../../cert-agent/ca/operator/identities.ts');
  return withOperator(flags, async (operator) => {
    const by = expiringMs === undefined ? undefined : Date.now() + expiringMs;
    const found = [];
    for await (const { id, valid, nextEnd, lastEnd, lastRenewed } of allIdentities(operator.records)) {
      if (flags.all !== true && valid === 0) continue;
      // A service is about to end when its last certificate is.
      if (by !== undefined && (lastEnd === undefined || lastEnd > by)) continue;
      const [nextExpiry, lastExpiry, lastRenewal] = [nextEnd, lastEnd, lastRenewed].map((one) =>
        one === undefined ? undefined : formatTime(one),
      );
      found.push({ id, certificates: valid, nextExpiry, lastExpiry, lastRenewal });
    }
    if (flags.json === true) printJson(found);
    else {
      const rows = found.map((one) => [
        one.id,
        String(one.certificates),
        one.nextExpiry ?? '',
        one.lastExpiry ?? '',
        one.lastRenewal ?? 'never',
      ]);
      printTable(['SPIFFE ID', 'VALID', 'NEXT EXPIRY', 'LAST EXPIRY', 'LAST RENEWAL'], rows, 'no certificates');
    }
    return exitCodes.ok;
  });
}

export function showCommand(): Command {
  return atCa(new Command('show'))
    .description('Show one issued certificate')
    .argument('<serial>', 'serial number, hex')
    .option('--json', 'print it as JSON')
    .addHelpText(
      'after',
      `
Example:
  sallyport ca show --dir ca 4f0c6a51d2b94e0fa3a1c27be8d9f013`,
    )
    .action(action(runShow));
}

async function runShow(serial: string, flags: AtCa): Promise<number> {
  const { formatTime } = await import('../../cert-agent/base/clock.ts');
  const { formatPem } = await import('../../cert-agent/identity/bundle.ts');
  return withOperator(flags, async (operator) => {
    const { certificate, ...rest } = await operator.show(serial);
    const one = { ...withTimes(rest, formatTime), pem: formatPem([Buffer.from(certificate, 'base64')]) };
    if (flags.json === true) {
      printJson(one);
      return exitCodes.ok;
    }
    print(`serial    ${one.serial}`);
    print(`ID        ${one.id}`);
    if (one.names !== undefined) print(`names     ${one.names.join(', ')}`);
    print(`issued    ${one.issuedAt}, for ${one.evidence}${one.renews === undefined ? '' : ` ${one.renews}`}`);
    print(`valid     ${one.notBefore} to ${one.notAfter}`);
    if (one.revoked !== undefined) print(`revoked   ${one.revoked.at}: ${one.revoked.reason}`);
    print(one.pem);
    return exitCodes.ok;
  });
}

type Listed = Awaited<ReturnType<Operator['list']>>[number];

/** A listed certificate with its times as text. */
function withTimes(one: Listed, format: (ms: number) => string) {
  const { issuedAt, notBefore, notAfter, revoked } = one;
  return {
    ...one,
    issuedAt: format(issuedAt),
    notBefore: format(notBefore),
    notAfter: format(notAfter),
    revoked: revoked === undefined ? undefined : { at: format(revoked.at), reason: revoked.reason },
  };
}
