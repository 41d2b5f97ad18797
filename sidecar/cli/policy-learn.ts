// `policy propose` and `policy shadow-report`: a policy from observed traffic, and the effect of dry-run policies.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { AdminPlace } from '../analyze/admin-client.ts';
import type { ShadowFacts } from '../observe/dry-run.ts';
import type { Edge } from '../observe/learned.ts';
import type { Workload } from '../policy/policy.ts';
import { counted, exitCodes, note, paint, print, printJson, printTable } from './terminal.ts';

interface ProposeFlags extends AdminPlace {
  readonly learned?: string;
  readonly name: string;
  readonly rare: string;
  readonly json?: boolean;
}

/** `policy propose`. */
export async function propose(flags: ProposeFlags): Promise<number> {
  const rare = Number(flags.rare);
  if (!Number.isInteger(rare) || rare < 0)
    throw new SallyportError('usage', `--rare takes a number, not '${flags.rare}'`);
  const { edges, workload } = await readEdges(flags);
  if (flags.json === true) {
    printJson({ edges });
    return exitCodes.ok;
  }
  const { proposePolicy } = await import('../analyze/propose.ts');
  const { text, left } = proposePolicy(edges, { name: flags.name, rare, workload });
  print(text);
  for (const one of left) note(`${paint('yellow', 'left out:', process.stderr)} ${one}`);
  return exitCodes.ok;
}

async function readEdges(flags: ProposeFlags): Promise<{ edges: readonly Edge[]; workload: Workload | undefined }> {
  if (flags.learned !== undefined) {
    const [{ readLearned }, { readText }] = await Promise.all([
      import('../observe/learned.ts'),
      import('../config/sources.ts'),
    ]);
    try {
      return { edges: readLearned(readText(flags.learned)), workload: undefined };
    } catch (error) {
      if (error instanceof SallyportError) throw error;
      throw new SallyportError('body_invalid', `${flags.learned} is not a learned-traffic file: ${String(error)}`);
    }
  }
  const body = (await askPage(flags, '/learned')) as { learning: boolean; edges: Edge[]; workload: Workload };
  if (!body.learning)
    throw new SallyportError('not_found', 'this sidecar is not in learn mode', {
      hint: "set 'learn: { file: learned.json }' in sidecar.yaml",
    });
  return body;
}

/** `policy shadow-report`. */
export async function shadowReport(flags: AdminPlace & { json?: boolean }): Promise<number> {
  const facts = (await askPage(flags, '/shadow-report')) as ShadowFacts & { onTrial: readonly string[] };
  if (flags.json === true) printJson(facts);
  else {
    print(facts.onTrial.length === 0 ? 'no dry-run policies' : `dry run: ${facts.onTrial.join(', ')}`);
    if (facts.since !== null) {
      const total = Object.values(facts.counts).reduce((sum, one) => sum + one, 0);
      print(`${counted(total, 'request')} since ${facts.since}`);
      print('');
      printTable(
        ['now', 'then', 'by', 'from', 'request', 'count', 'first seen', 'last seen'],
        facts.changes.map((one) => [
          one.decision,
          one.shadowDecision,
          one.shadowPolicy === 'none' ? 'no ALLOW would match' : one.shadowPolicy,
          one.from || 'no identity',
          one.request,
          String(one.count),
          one.firstSeen,
          one.lastSeen,
        ]),
        'no decision would have changed',
      );
      if (facts.notKept > 0) print(paint('yellow', `${facts.notKept} more kinds of requests were not stored`));
    }
  }
  return facts.changes.length === 0 ? exitCodes.ok : exitCodes.no;
}

async function askPage(place: AdminPlace, path: string): Promise<unknown> {
  const { askAdmin, findAdmin } = await import('../analyze/admin-client.ts');
  const admin = await findAdmin(place);
  const page = admin.page(path);
  const { status, body } = await askAdmin(page, admin.socketPath);
  if (status !== 200 || body === undefined)
    throw new SallyportError(
      'upstream_protocol',
      `${page.href} responded ${status}: is this a sidecar's admin address?`,
    );
  return body;
}
