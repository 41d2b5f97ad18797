// `sallyport policy`: questions about policies, without a proxy and without a cluster. The flags and help texts; the work of
// each command is a file of its own, loaded when it runs.

import { Command } from 'commander';
import { action, defaultAdmin } from './terminal.ts';

const collect = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value];

/** What to decide by: the same for all commands. */
function withScope(command: Command): Command {
  return command
    .option('--policies <path>', 'a file or directory of Istio documents; repeatable', collect)
    .option('--config <file>', 'sidecar.yaml: gives workload, trust domain and policies where no flag does')
    .option('--trust-domain <name>', 'our trust domain (default: cluster.local)')
    .option('--trust-domain-alias <name>', 'another name of it; repeatable', collect)
    .option('--root-namespace <name>', 'whose policies hold for the whole mesh (default: istio-system)')
    .option('--namespace <name>', "the workload's namespace (default: default)")
    .option('--service-account <name>', "the workload's service account")
    .option('--label <key=value>', 'a label of the workload; repeatable', collect)
    .option('--default-action <action>', 'with no ALLOW policy in scope: deny (default), or allow as Istio does')
    .option('--path-normalization <how>', 'NONE, BASE (default), MERGE_SLASHES or DECODE_AND_MERGE_SLASHES');
}

/** One request, from flags. */
function withRequest(command: Command): Command {
  return command
    .option('--from <id>', "the caller's SPIFFE ID; without it a peer without identity")
    .option(
      '--to <app:port>',
      'the workload that is called, [namespace/]app:port: sets namespace, label app, host and port',
    )
    .option('-H, --header <name: value>', 'a header; repeatable', collect)
    .option('--jwt <token>', 'a token, verified by the RequestAuthentication documents')
    .option('--claims <json>', 'claims as if a token with them had been verified')
    .option('--source-ip <ip>', 'the address of the peer')
    .option('--remote-ip <ip>', 'the address of the client behind trusted proxies')
    .option('--destination-ip <ip>', 'the address that was called')
    .option('--sni <name>', 'the server name of the TLS handshake')
    .option('--host <name>', 'the authority')
    .option('--tcp', 'a TCP connection: no METHOD and PATH');
}

/** The command and those below it. */
export function policyCommand(): Command {
  const command = new Command('policy').description('Ask what policies decide, why, and what a change would change');
  command.addCommand(
    withRequest(withScope(new Command('explain')))
      .description('Print what is considered for one request, in order, what decides, and what would let it pass')
      .argument('[METHOD]')
      .argument('[PATH]')
      .option('--json', 'print JSON')
      .addHelpText(
        'after',
        `
The exit code is 0 when it is allowed, 1 when it is not, 2 for misuse.

Example:
  sallyport policy explain --policies policies/ --trust-domain demo.test \\
    --from spiffe://demo.test/ns/shop/sa/web --to shop/orders:8080 POST /orders`,
      )
      .action(
        action(async (method, path, flags) => (await import('./policy-eval.ts')).explainOne(method, path, flags)),
      ),
  );
  command.addCommand(
    withRequest(withScope(new Command('eval')))
      .description('Print the verdict on one request, or with --batch on one request per line')
      .argument('[METHOD]')
      .argument('[PATH]')
      .option('--json', 'print JSON')
      .option('--batch <file.jsonl>', 'a request per line, - for standard input; answers one line each')
      .addHelpText(
        'after',
        `
A line of a batch: {"id", "from": "spiffe://..."|null, "sourceIp", "remoteIp", "destinationIp", "port", "sni",
"protocol": "http"|"tcp", "method", "host", "path", "headers": {}, "jwt" or "claims": {}, "workload": {"namespace",
"labels"}}; it may bring its own "policies": [documents], "trustDomain", "trustDomainAliases", "rootNamespace",
"defaultAction", "pathNormalization". "providers": {"name": "allow"} says what an external authorizer would say; one
that is not named refuses. Its answer: {"id", "allowed", "status", "policy", "rule", "path"} or {"id", "error"}.

The exit code is 0 when it is allowed, 1 when it is not, 2 for misuse; with --batch 0 once every line has its answer.

Examples:
  sallyport policy eval --policies policies/ --from spiffe://cluster.local/ns/shop/sa/web --to shop/orders:8080 GET /
  sallyport policy eval --policies policies/ --batch requests.jsonl`,
      )
      .action(action(async (method, path, flags) => (await import('./policy-eval.ts')).evaluate(method, path, flags))),
  );
  command.addCommand(
    withScope(new Command('test'))
      .description('Run fixtures: requests and the verdicts that they must get')
      .argument('<files...>', 'YAML files')
      .option('--format <format>', 'text, json, tap or junit', 'text')
      .option('--min-coverage <percent>', 'fail when fewer of the rules in scope were matched by some request')
      .addHelpText(
        'after',
        `
A fixture: policies: policy.yaml, workload: {...}, and requests: [{ name, from, method, path, port, ..., expect }],
where expect is allow, deny, a status, or { allowed, status, policy: ns/name, rule, path }.

The exit code is 0 when every request gets its verdict, 1 when one does not, 2 for misuse.

Example:
  sallyport policy test examples/policies/*/requests.yaml --format junit > report.xml`,
      )
      .action(action(async (files, flags) => (await import('./policy-test.ts')).testFixtures(files, flags))),
  );
  command.addCommand(
    withScope(new Command('lint'))
      .description(
        'Find what policies say and hardly mean: dead rules, denials that are wider than they look, and more',
      )
      .argument('[paths...]', 'files or directories')
      .option(
        '--workload <id>',
        'the SPIFFE ID of a workload that exists; repeatable, for principals that nobody has',
        collect,
      )
      .option('--json', 'print JSON')
      .addHelpText(
        'after',
        `
The exit code is 0 when nothing was found, 1 when something was, 2 for misuse.

Example:
  sallyport policy lint policies/ --workload spiffe://demo.test/ns/shop/sa/web`,
      )
      .action(action(async (paths, flags) => (await import('./policy-lint.ts')).lintPolicies(paths, flags))),
  );
  command.addCommand(
    withScope(new Command('diff'))
      .description('Show which requests change their verdict between two versions of the policies')
      .argument('<old>', 'a file or directory')
      .argument('<new>', 'a file or directory')
      .option('--log <file>', 'an access log; without it requests are made from the rules of both')
      .option('--json', 'print JSON')
      .addHelpText(
        'after',
        `
Where no flag names a workload, each is compared that the selectors of the policies tell apart.
The exit code is 0 when nothing changes, 1 when something does, 2 for misuse or where nothing was compared.

Example:
  sallyport policy diff policies/ policies.new/ --namespace shop --label app=orders`,
      )
      .action(
        action(async (before, after, flags) => (await import('./policy-diff.ts')).diffPolicies(before, after, flags)),
      ),
  );
  command.addCommand(
    withScope(new Command('replay'))
      .description('Put the requests of an access log to other policies and show whose verdict would have changed')
      .requiredOption('--log <file>', "the sidecar's access log, - for standard input")
      .option('--json', 'print JSON')
      .addHelpText(
        'after',
        `
A log holds no headers and no claims, and no authorizer is asked again: where a verdict hangs on one, the request is
counted as 'cannot be told'.
The exit code is 0 when nothing would have changed, 1 when something would, 2 for misuse or where nothing was compared.

Example:
  sallyport policy replay --log access.json --policies policies.new/ --config sidecar.yaml`,
      )
      .action(action(async (flags) => (await import('./policy-diff.ts')).replayLog(flags))),
  );
  command.addCommand(
    new Command('propose')
      .description('Write the least AuthorizationPolicy that admits what a sidecar in learn mode has seen')
      .option('--admin <url>', 'its admin address', defaultAdmin)
      .option('--learned <file>', 'the file that it keeps, instead of asking it')
      .option('--name <name>', 'name of the policy', 'learned')
      .option('--rare <count>', 'edges seen fewer times than this are marked', '3')
      .option('--json', 'print what was learned instead')
      .addHelpText(
        'after',
        `
Nothing is enforced by it: its annotation istio.io/dry-run: "true" has it on trial. Read it, watch the shadow report, then
take the annotation off.

Example:
  sallyport policy propose --admin http://127.0.0.1:15000 > policies/learned.yaml`,
      )
      .action(action(async (flags) => (await import('./policy-learn.ts')).propose(flags))),
  );
  command.addCommand(
    new Command('shadow-report')
      .description('Show what the policies on trial would change if they were enforced, and since when')
      .option('--admin <url>', 'the admin address of a sidecar', defaultAdmin)
      .option('--json', 'print JSON')
      .addHelpText(
        'after',
        `
The exit code is 0 when nothing would change, 1 when something would, 2 for misuse.

Example:
  sallyport policy shadow-report --admin http://127.0.0.1:15000`,
      )
      .action(action(async (flags) => (await import('./policy-learn.ts')).shadowReport(flags))),
  );
  return command;
}
