// `sallyport completion`: a script that completes commands and options in a shell. It is made from the commands
// themselves, and starts no process while you type.

import { Argument, Command, type Option } from 'commander';
import { action, exitCodes, print } from './terminal.ts';

type Shell = 'bash' | 'zsh' | 'fish';

/** Builds all commands, loaded when the script is printed. */
type LoadAll = () => Promise<readonly Command[]>;

/** A command, with the words that lead to it. */
interface Place {
  readonly path: readonly string[];
  readonly commands: readonly Command[];
  readonly options: readonly Option[];
}

/** The command. `loadAll` gives the commands to complete. */
export function completionCommand(loadAll: LoadAll): Command {
  return new Command('completion')
    .description('Print a script that completes commands and options in bash, zsh or fish')
    .addArgument(new Argument('<shell>', 'the shell').choices(['bash', 'zsh', 'fish']))
    .addHelpText(
      'after',
      `
Examples:
  source <(sallyport completion bash)                                      in ~/.bashrc; zsh: the same in ~/.zshrc
  sallyport completion fish >~/.config/fish/completions/sallyport.fish`,
    )
    .action(
      action(async (shell: Shell) => {
        const places = placesOf([], await loadAll(), []);
        print(shell === 'fish' ? fishScript(places) : bashScript(places, shell));
        return exitCodes.ok;
      }),
    );
}

/** That of `path`, and those of all commands below it. */
function placesOf(path: readonly string[], commands: readonly Command[], options: readonly Option[]): Place[] {
  const inner = commands.flatMap((one) => placesOf([...path, one.name()], one.commands, one.options));
  return [{ path, commands, options }, ...inner];
}

function flagsOf({ options }: Place): string[] {
  return [...options.flatMap(({ long, short }) => long ?? short ?? []), '--help'];
}

function bashScript(places: readonly Place[], shell: 'bash' | 'zsh'): string {
  const keyOf = ({ path }: Place): string => `'${path.join(' ')}'`;
  const steps = places.filter(({ path }) => path.length > 0).map(keyOf);
  const words = places.map((one) => {
    const names = one.commands.map((command) => command.name());
    return `    ${keyOf(one)}) words='${[...names, ...flagsOf(one)].join(' ')}' ;;`;
  });
  const prelude = shell === 'zsh' ? 'autoload -U +X bashcompinit && bashcompinit\n' : '';
  // Without a match, the shell completes file names.
  return `${prelude}_sallyport() {
  local at='' word words=''
  for word in "\${COMP_WORDS[@]:1:$((COMP_CWORD - 1))}"; do
    case "\${at:+$at }$word" in
      ${steps.join('|')}) at="\${at:+$at }$word" ;;
    esac
  done
  case "$at" in
${words.join('\n')}
  esac
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _sallyport sallyport
`;
}

function fishScript(places: readonly Place[]): string {
  const lines = places.flatMap((place) => {
    const names = place.commands.map((one) => one.name());
    const seen = place.path.map((one) => `__fish_seen_subcommand_from ${one}`);
    const here = names.length === 0 ? seen : [...seen, `not __fish_seen_subcommand_from ${names.join(' ')}`];
    const when = `complete -c sallyport -n '${here.join('; and ')}'`;
    return [
      ...place.commands.map((one) => `${when} -f -a ${one.name()} -d ${quoted(one.summary() || one.description())}`),
      ...place.options.flatMap(({ long, required, optional, description }) =>
        long == null
          ? []
          : [`${when} -l ${long.slice(2)}${required || optional ? ' -r' : ''} -d ${quoted(description)}`],
      ),
    ];
  });
  return `${lines.join('\n')}\n`;
}

/** In fish's single quotes only the quote and the backslash have a meaning. */
function quoted(text: string): string {
  return `'${text.split('\n')[0]!.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
}
