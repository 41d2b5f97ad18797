// `sallyport schema`: the JSON Schema of a file or document, for editors and for CI.

import { Command } from 'commander';
import { action, exitCodes, printJson } from './terminal.ts';

/** The command; its modules are imported when it runs. */
export function schemaCommand(): Command {
  return new Command('schema')
    .description('Print the JSON Schema (draft 2020-12) of sidecar.yaml, gateway.yaml or a kind of document')
    .argument('<kind>', "'sidecar', 'gateway' or a kind: 'sallyport explain' lists them")
    .addHelpText(
      'after',
      `
It describes names, types, defaults and bounds. What concerns several fields at once is checked by 'sallyport check'.

Examples:
  sallyport schema sidecar >sidecar.schema.json      # and in sidecar.yaml: # yaml-language-server: $schema=sidecar.schema.json
  sallyport schema SecurityPolicy | jq '.properties.spec'`,
    )
    .action(action(runSchema));
}

async function runSchema(kind: string): Promise<number> {
  const { schemaOf } = await import('../reference/look-up.ts');
  printJson(await schemaOf(kind));
  return exitCodes.ok;
}
