// `sallyport why`: why a running sidecar refused a request, by the id of its decision.

import { Command } from 'commander';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Admin, AdminPlace } from '../analyze/admin-client.ts';
import type { DenialLine, Why } from '../observe/denial-lines.ts';
import { withAdmin } from './admin-options.ts';
import { action, exitCodes, harmless, paint, print, printJson, printText } from './terminal.ts';

/** The command; its modules are imported when it runs. */
export function whyCommand(): Command {
  const command = new Command('why')
    .description('Show why a running sidecar or gateway refused a request, and what would have allowed it')
    .argument('[id]', 'decision_id of the access log, or x-sallyport-decision of a response')
    .option('--last', 'show the newest refusal, instead of an id');
  return withAdmin(command, 'the sidecar or gateway')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
The last thousand refusals by policies are kept in memory; 'sallyport denials' lists them. At a gateway they are the requests
of callers who are not known or may not do this. Of other refusals, such as those of a RequestValidation, the access log has
all that is known.
The exit code is 0 when the refusal could be explained, and 1 when it could not.

Examples:
  sallyport why --last
  sallyport why 3f9a1c07-4-12-1 --admin http://127.0.0.1:15000`,
    )
    .action(action(runWhy));
}

interface WhyFlags extends AdminPlace {
  readonly last?: boolean;
  readonly json?: boolean;
}

async function runWhy(given: string | undefined, flags: WhyFlags): Promise<number> {
  const [{ askAdmin, findAdmin }, { printExplanation }] = await Promise.all([
    import('../analyze/admin-client.ts'),
    import('./explanation.ts'),
  ]);
  if ((given === undefined) !== (flags.last === true))
    throw new SallyportError(
      'usage',
      `give the id of a decision, or --last${given === undefined ? '' : ', not both'}`,
      {
        hint: 'the id is decision_id of the access log',
      },
    );
  const admin = await findAdmin(flags);
  const id = given ?? (await lastRefusal(admin));
  const page = admin.page(`/why/${encodeURIComponent(id)}`);
  const { status, body } = await askAdmin(page, admin.socketPath);
  if (status !== 200) {
    const { message, hint } = (body ?? {}) as { message?: string; hint?: string };
    throw new SallyportError(
      'not_found',
      message ?? `${page.origin} responded ${status}`,
      hint === undefined ? {} : { hint },
    );
  }
  const why = body as Why;
  if (flags.json === true) printJson(why);
  else {
    const { request } = why;
    const what = request.protocol === 'tcp' ? 'a TCP connection' : `${request.method} ${request.path}`.trim();
    const unnamed = request.protocol === 'other' ? 'the app' : 'a peer without identity';
    const who = harmless(request.principal) || unnamed;
    printText(`${why.time} ${harmless(what)} from ${who} was refused [${why.code}]`);
    printText(harmless(why.reason));
    if (why.gateway) printText(atGateway(why));
    else if (request.protocol === 'other') printText(`'sallyport explain ${why.code}' says what to do.`);
    else if (why.explanation === null)
      printText(paint('yellow', 'the policies that refused it are no longer in memory'));
    else {
      print('');
      printExplanation(why.explanation);
    }
  }
  return exitCodes.ok;
}

/** Where to look next: the policies of a gateway are not explained rule by rule. */
function atGateway({ policy, code }: Why): string {
  const [, of] = /^securitypolicy\/([^/]+\/[^/]+)\/authorization\//.exec(policy) ?? [];
  if (of !== undefined)
    return `The SecurityPolicy ${of} decided, by its ${policy.slice(policy.lastIndexOf('/') + 1)} rule: its rules are tried in order, and the first that matches decides.`;
  return `'sallyport explain ${code}' says what to do; 'sallyport gateway status' shows which policies apply to a route.`;
}

/** The id of the newest refusal. @throws SallyportError `not_found`. */
async function lastRefusal(admin: Admin): Promise<string> {
  const { askAdminList } = await import('../analyze/admin-client.ts');
  const page = admin.page('/denials');
  // Scanners and probes are refused all the time.
  const all = (await askAdminList(page, admin.socketPath)) as DenialLine[];
  const newest = all.find(({ isRequest }) => isRequest) ?? all[0];
  if (newest !== undefined) return newest.id;
  throw new SallyportError('not_found', `${page.origin} has no refusal that can be explained`);
}
