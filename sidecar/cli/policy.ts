// `sallyport policy`: flags and help texts of the policy commands, which need neither a proxy nor a cluster. The work
// of each command is in its own file, imported when it runs.

import { Command } from 'commander';
import { withAdmin } from './admin-options.ts';
import { action } from './terminal.ts';

const collect = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value];

/** The flags for policies and workload: the same for all commands. */
function withScope(command: Command): Command {
  return command
    .option('--policies <path>', 'a file or directory of Istio documents; repeatable', collect)
    .option('--config <file>', 'sidecar.yaml: workload, trust domain and policies, unless a flag sets them')
    .option('--trust-domain <name>', 'trust domain (default: cluster.local)')
    .option('--trust-domain-alias <name>', 'alias of the trust domain; repeatable', collect)
    .option('--root-namespace <name>', 'namespace whose policies apply to the whole mesh (default: istio-system)')
    .option('--namespace <name>', "the workload's namespace (default: default)")
    .option('--service-account <name>', "the workload's service account")
    .option('--label <key=value>', 'a label of the workload; repeatable', collect)
    .option('--default-action <action>', 'without an ALLOW policy in scope: deny (default), or allow like Istio')
    .option('--path-normalization <how>', 'NONE, BASE (default), MERGE_SLASHES or DECODE_AND_MERGE_SLASHES');
}

/** The flags for one request. */
function withRequest(command: Command): Command {
  return command
    .option('--from <id>', "the client's SPIFFE ID; without it, a peer without identity")
    .option('--to <app:port>', 'the called workload, [namespace/]app:port: sets namespace, label app, host and port')
    .option('-H, --header <name: value>', 'a header; repeatable', collect)
    .option('--jwt <token>', 'a token, verified by the RequestAuthentication documents')
    .option('--claims <json>', 'claims of an assumed verified token')
    .option('--source-ip <ip>', 'the address of the peer')
    .option('--remote-ip <ip>', 'the address of the client behind trusted proxies')
    .option('--destination-ip <ip>', 'the called address')
    .option('--sni <name>', 'the server name of the TLS handshake')
    .option('--host <name>', 'the host of the request (authority)')
    .option('--tcp', 'a TCP connection, without METHOD and PATH');
}

/** The command with its subcommands. */
export function policyCommand(): Command {
  const command = new Command('policy').description('Show what policies decide and why, and test changes');
  command.addCommand(
    withRequest(withScope(new Command('explain')))
      .description('Print the rules considered for one request, the deciding rule, and what would allow it')
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
      .description('Print the decision on one request or, with --batch, on one request per line')
      .argument('[METHOD]')
      .argument('[PATH]')
      .option('--json', 'print JSON')
      .option('--batch <file.jsonl>', 'one request per line, - for standard input; prints one line each')
      .addHelpText(
        'after',
        `
A line of a batch: {"id", "from": "spiffe://..."|null, "sourceIp", "remoteIp", "destinationIp", "port", "sni",
"protocol": "http"|"tcp", "method", "host", "path", "headers": {}, "jwt" or "claims": {}, "workload": {"namespace",
"labels"}}; it may include its own "policies": [documents], "trustDomain", "trustDomainAliases", "rootNamespace",
"defaultAction", "pathNormalization". "providers": {"name": "allow"} sets the decisions of external authorizers; one
that is not listed denies. The output line: {"id", "allowed", "status", "policy", "rule", "path"} or {"id", "error"}.

The exit code is 0 when it is allowed, 1 when it is not; with --batch 0 if every line was evaluated, else 2.

Examples:
  sallyport policy eval --policies policies/ --from spiffe://cluster.local/ns/shop/sa/web --to shop/orders:8080 GET /
  sallyport policy eval --policies policies/ --batch requests.jsonl`,
      )
      .action(action(async (method, path, flags) => (await import('./policy-eval.ts')).evaluate(method, path, flags))),
  );
  command.addCommand(
    withScope(new Command('test'))
      .description('Run fixtures: requests with expected decisions')
      .argument('<files...>', 'YAML files')
      .option('--format <format>', 'text, json, tap or junit', 'text')
      .option('--min-coverage <percent>', 'fail if fewer rules in scope were matched by a request')
      .addHelpText(
        'after',
        `
A fixture: policies: policy.yaml, workload: {...}, and requests: [{ name, from, method, path, port, ..., expect }],
where expect is allow, deny, a status, or { allowed, status, policy: ns/name, rule, path }.

The exit code is 0 when every request gets its expected decision, 1 when one does not, 2 for misuse.

Example:
  sallyport policy test examples/policies/*/requests.yaml --format junit > report.xml`,
      )
      .action(action(async (files, flags) => (await import('./policy-test.ts')).testFixtures(files, flags))),
  );
  command.addCommand(
    withScope(new Command('lint'))
      .description('Find likely mistakes in policies: dead rules, denials that are wider than they look, and more')
      .argument('[paths...]', 'files or directories')
      .option(
        '--workload <id>',
        'the SPIFFE ID of an existing workload; repeatable, to find principals without a workload',
        collect,
      )
      .option('--json', 'print JSON')
      .addHelpText(
        'after',
        `
The exit code is 0 without findings, 1 with findings, 2 for misuse.

Example:
  sallyport policy lint policies/ --workload spiffe://demo.test/ns/shop/sa/web`,
      )
      .action(action(async (paths, flags) => (await import('./policy-lint.ts')).lintPolicies(paths, flags))),
  );
  command.addCommand(
    withScope(new Command('diff'))
      .description('Show which requests are decided differently by two versions of the policies')
      .argument('<old>', 'a file or directory')
      .argument('<new>', 'a file or directory')
      .option('--log <file>', 'an access log; without it, requests are derived from the rules of both')
      .option('--json', 'print JSON')
      .addHelpText(
        'after',
        `
Without a flag for a workload, all workloads that the policies' selectors distinguish are compared.
The exit code is 0 when nothing changes, 1 when something does (2 also where nothing was compared).

Example:
  sallyport policy diff policies/ policies.new/ --namespace shop --label app=orders`,
      )
      .action(
        action(async (before, after, flags) => (await import('./policy-diff.ts')).diffPolicies(before, after, flags)),
      ),
  );
  command.addCommand(
    withScope(new Command('replay'))
      .description(
        'Evaluate the requests of an access log with other policies and show which decisions would have changed',
      )
      .requiredOption('--log <file>', "the sidecar's access log, - for standard input")
      .option('--json', 'print JSON')
      .addHelpText(
        'after',
        `
A log has no headers and no claims, and authorizers are not asked again: a request whose decision depends on one is
counted as 'cannot be decided'.
The exit code is 0 when nothing would have changed, 1 when something would (2 also where nothing was compared).

Example:
  sallyport policy replay --log access.json --policies policies.new/ --config sidecar.yaml`,
      )
      .action(action(async (flags) => (await import('./policy-diff.ts')).replayLog(flags))),
  );
  command.addCommand(
    withAdmin(
      new Command('propose').description(
        'Write the smallest AuthorizationPolicy that allows the traffic that a sidecar in learn mode has seen',
      ),
      'the sidecar',
    )
      .option('--learned <file>', 'the file of learned traffic, instead of --admin')
      .option('--name <name>', 'name of the policy', 'learned')
      .option('--rare <count>', 'mark calls that were seen fewer times than this', '3')
      .option('--json', 'print the learned traffic as JSON')
      .addHelpText(
        'after',
        `
The policy is not enforced: it has the annotation istio.io/dry-run: "true". Read it, watch the shadow report, then remove
the annotation.

Example:
  sallyport policy propose --admin http://127.0.0.1:15000 > policies/learned.yaml`,
      )
      .action(action(async (flags) => (await import('./policy-learn.ts')).propose(flags))),
  );
  command.addCommand(
    withAdmin(
      new Command('shadow-report').description(
        'Show what the dry-run policies would change if they were enforced, and since when',
      ),
      'the sidecar',
    )
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
