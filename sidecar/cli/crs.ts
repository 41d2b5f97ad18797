// `sallyport crs import`: rules of OWASP CRS for a RequestScreening.

import { Command } from 'commander';
import { action, counted, exitCodes, note, print, printJson } from './terminal.ts';

/** The command; its modules are imported when it runs. */
export function crsCommand(): Command {
  return new Command('crs').description('Read rules of OWASP CRS').addCommand(importCommand());
}

function importCommand(): Command {
  return new Command('import')
    .description("Print the rules of CRS 4 as 'rules' of a RequestScreening, and what is not carried")
    .argument('<dir>', "the directory 'rules' of a release, with its data files")
    .option('--json', 'print JSON: rules, and what is not carried')
    .addHelpText(
      'after',
      `
The rules go to standard output, the table of what is not carried to standard error. SecRuleRemoveById and
SecRuleUpdateTargetById of the same directory are kept. Rules that read responses, chains, rules without a score, and
operators other than searches are not carried.

'rules' belongs below 'spec' of the RequestScreening, indented by two spaces.

Examples:
  sallyport crs import coreruleset/rules | sed 's/^/  /' >> screening.yaml
  sallyport crs import coreruleset/rules --json | jq '.notCarried[].why'`,
    )
    .action(action(runImport));
}

async function runImport(dir: string, { json }: { json?: boolean }): Promise<number> {
  const { importCrs } = await import('../edge/screening/crs-import.ts');
  const { version, rules, notCarried } = importCrs(dir);
  if (json === true) {
    printJson({ version: version ?? null, rules, notCarried });
    return exitCodes.ok;
  }
  const { stringify } = await import('yaml');
  print(stringify({ rules }, { lineWidth: 0 }).trimEnd());
  for (const { id, file, why, inPart } of notCarried)
    note(`${id ?? 'a rule'} ${inPart ? 'in part' : 'not carried'}: ${why} (${file})`);
  const missing = notCarried.filter(({ inPart }) => !inPart).length;
  note(`${version ?? 'CRS'}: ${counted(rules.length, 'rule')} carried, ${missing} not carried`);
  return exitCodes.ok;
}
