// `sallyport openapi check`: compares OpenAPI documents with what a gateway's routes serve.

import { readFileSync, statSync } from 'node:fs';
import { Command } from 'commander';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Finding } from '../process/api-check.ts';
import { action, counted, exitCodes, note, print, printJson } from './terminal.ts';

/** The command; its modules are imported when it runs. */
export function openapiCommand(): Command {
  return new Command('openapi').description('Compare OpenAPI documents with what is served').addCommand(checkCommand());
}

function checkCommand(): Command {
  return new Command('check')
    .description('Say which operations no route serves, which rules no operation describes, and where security differs')
    .option('--config <path>', 'gateway.yaml, or a directory of documents', process.env['SALLYPORT_CONFIG'])
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
The documents are those of each RequestValidation that is in force. The security of an operation is compared with the
SecurityPolicy of its route by the kind of credential. The exit code is 0 when everything fits, 1 when something does not, 2 for misuse.

Examples:
  sallyport openapi check --config gateway.yaml
  sallyport openapi check --config gateway.yaml --json | jq '.findings[].code'`,
    )
    .action(action(runCheck));
}

async function runCheck({ config, json }: { config?: string; json?: boolean }): Promise<number> {
  if (config === undefined)
    throw new SallyportError('usage', 'no gateway or directory given', {
      hint: 'give a directory or gateway.yaml with --config',
    });
  await refuseOpenApi(config);
  const { checkApis } = await import('../process/api-check.ts');
  const { findings, documents, operations } = await checkApis(config, Date.now());
  if (documents === 0)
    throw new SallyportError('usage', `no RequestValidation with an OpenAPI document is in force in ${config}`, {
      hint: "'sallyport gateway status --offline' says which are invalid or not attached",
    });
  if (json === true) printJson({ ok: findings.length === 0, documents, operations, findings });
  else for (const line of linesOf(findings)) print(line);
  if (json !== true)
    note(
      findings.length === 0
        ? `${counted(operations, 'operation')} of ${counted(documents, 'document')}: all are served as described`
        : `${counted(findings.length, 'finding')} in ${counted(operations, 'operation')}`,
    );
  return findings.length === 0 ? exitCodes.ok : exitCodes.no;
}

/** A file that is the OpenAPI document itself. @throws SallyportError `usage`. */
async function refuseOpenApi(path: string): Promise<void> {
  if (statSync(path, { throwIfNoEntry: false })?.isFile() !== true) return;
  const [{ parseYaml }, { openApiHint }] = await Promise.all([
    import('../../cert-agent/base/yaml.ts'),
    import('../documents/gateway-api/kinds.ts'),
  ]);
  const { openapi, swagger } = (parseYaml(readFileSync(path, 'utf8'), path).documents[0]?.value ?? {}) as Readonly<
    Record<string, unknown>
  >;
  if ((openapi ?? swagger) !== undefined)
    throw new SallyportError('usage', `${path} is an OpenAPI document`, { hint: openApiHint });
}

/** Operations with the same finding share a line. */
const namedInLine = 3;

function linesOf(findings: readonly Finding[]): string[] {
  const groups = Map.groupBy(findings, ({ policy, code, reason }) => `${policy} ${code} ${reason}`);
  return [...groups.values()].map((group) => {
    const [{ file, line, policy, code, reason, method }] = group as [Finding];
    const names = group.slice(0, namedInLine).map((one) => `${one.method} ${one.path}`);
    const more = group.length > namedInLine ? ` and ${group.length - namedInLine} more` : '';
    const which = method === undefined ? '' : `${names.join(', ')}${more}: `;
    return `${file}:${line}: ${policy}: ${which}${reason} (${code})`;
  });
}
