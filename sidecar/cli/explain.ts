// `sallyport explain`: what a field, a variable, an error code, a metric or a log field means. As `kubectl explain`.

import { Command } from 'commander';
import { widthOf } from '../../cert-agent/base/wrap.ts';
import { action, exitCodes, print, printJson } from './terminal.ts';

/** The command; its modules are imported when it runs. */
export function explainCommand(): Command {
  return new Command('explain')
    .description('Explain a field of sidecar.yaml, gateway.yaml or a document, an error code, a metric, ...')
    .argument('[name]', 'a kind with a path in it, a table, or a name of a table; without it, a list of them')
    .option('-r, --recursive', 'print the names and types of all fields below')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
Paths leave out lists and maps: 'sidecar.inbound.port' is the port of each entry of 'inbound'.

Examples:
  sallyport explain sidecar.limits.headBytes
  sallyport explain gateway --recursive
  sallyport explain SecurityPolicy.spec.jwt
  sallyport explain upstream_identity
  sallyport explain metrics`,
    )
    .action(action(runExplain));
}

/** The width of the terminal, or of a file. */
const width = (): number => widthOf(process.stdout) ?? 80;

async function runExplain(name: string | undefined, flags: { recursive?: boolean; json?: boolean }): Promise<number> {
  const [{ lookUp }, { kinds }, { tables }, { fieldAsJson, printEntry, printField, printList, printTree }] =
    await Promise.all([
      import('../reference/look-up.ts'),
      import('../reference/kinds.ts'),
      import('../reference/tables.ts'),
      import('../reference/print.ts'),
    ]);
  if (name === undefined) {
    if (flags.json === true)
      printJson([...kinds, ...tables].map(({ name: of, description }) => ({ name: of, description })));
    else print(printList([...kinds, ...tables], width()));
    return exitCodes.ok;
  }
  const found = await lookUp(name);
  if ('field' in found) {
    if (flags.json === true) printJson(fieldAsJson(found.field));
    else if (flags.recursive === true) print(printTree(found.field, width()));
    else print(printField(found.field, width()));
  } else if ('entry' in found) {
    if (flags.json === true) printJson(found.entry);
    else print(printEntry(found.entry, width()));
  } else if (flags.json === true) printJson(found.entries);
  else print(printList(found.entries, width()));
  return exitCodes.ok;
}
