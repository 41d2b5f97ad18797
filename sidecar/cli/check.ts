// `sallyport check`: validates documents as Istio itself does. For CI, with or without Sallyport.

import { Command } from 'commander';
import { formatProblem, type Problem, SallyportError } from '../../cert-agent/base/errors.ts';
import { action, counted, exitCodes, note, notePassedOver, paint, printJson } from './terminal.ts';

/** The command; its modules are imported when it runs. */
export function checkCommand(): Command {
  return new Command('check')
    .description(
      'Check Istio, Gateway API and Envoy Gateway documents as those projects validate them, and sidecar.yaml and gateway.yaml',
    )
    .argument('<files...>', 'files, directories, or - for standard input')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
The exit code is 0 when all documents are valid, 1 when one is not (all problems are printed with their positions), 2 for misuse.

Examples:
  sallyport check policies/
  kubectl get authorizationpolicies -A -o yaml | sallyport check -
  sallyport check sidecar.yaml policies/ --json`,
    )
    .action(action(runCheck));
}

async function runCheck(files: readonly string[], flags: { json?: boolean }): Promise<number> {
  const [
    { isSettings, readSomePaths },
    { placeDocuments, readIstio },
    { readSettings },
    { countOf },
    { checkGatewayApi, isGatewayApi },
    { parseGatewaySettings },
    { isGatewayFile },
    { isGatewayPolicy, readGatewayPolicy },
    { asStored },
  ] = await Promise.all([
    import('../analyze/world.ts'),
    import('../documents/istio/read.ts'),
    import('../config/sidecar-settings.ts'),
    import('../documents/istio/documents.ts'),
    import('../documents/gateway-api/gateway.ts'),
    import('../config/gateway-settings.ts'),
    import('../config/sources.ts'),
    import('../config/gateway-config.ts'),
    import('../documents/stored.ts'),
  ]);
  const { sources, passedOver } = readSomePaths(files);
  notePassedOver(passedOver);
  const { placed, problems } = placeDocuments(sources);
  const settings = placed.filter(({ document }) => isSettings(document));
  const routes = placed.filter(({ document }) => isGatewayApi(document));
  const policies = placed.filter(({ document }) => isGatewayPolicy(document));
  const read = readIstio(
    placed.filter((one) => ![settings, routes, policies].some((list) => list.includes(one))),
    'check',
  );
  const all: Problem[] = [
    ...problems,
    ...read.problems,
    ...routes.flatMap(({ document }) => checkGatewayApi(asStored(document))),
    ...policies.flatMap(({ document, file }) => {
      const policy = readGatewayPolicy(asStored(document), file);
      return 'problems' in policy ? policy.problems : [];
    }),
  ];
  for (const { file } of settings) {
    try {
      const { text } = sources.find((one) => one.file === file)!;
      if (isGatewayFile(text)) parseGatewaySettings(text, file);
      else await readSettings(text, file);
    } catch (error) {
      if (!(error instanceof SallyportError)) throw error;
      all.push(...error.problems);
    }
  }
  const good = countOf(read.documents) + settings.length + routes.length + policies.length;
  if (all.length === 0 && placed.length === 0)
    throw new SallyportError('usage', `no document in ${files.join(', ')}: nothing was checked`);
  if (flags.json === true) printJson({ ok: all.length === 0, documents: placed.length, problems: all, passedOver });
  else if (all.length === 0) note(`${counted(good, 'document')} ${good === 1 ? 'is' : 'are'} valid`);
  else {
    for (const one of all) note(formatProblem(one));
    note(`${paint('red', 'error:', process.stderr)} ${all.length} problem${all.length > 1 ? 's' : ''} found`);
  }
  return all.length === 0 ? exitCodes.ok : exitCodes.no;
}
