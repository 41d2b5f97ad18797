// Path traversal and inclusion of files: names that leave their directory, or that name a file of the system.

import { type Detect, signsOf } from './finding.ts';

const signs = signsOf('path', {
  climb: [5],
  step: [3],
  file: [5],
  wrapper: [5],
  'null-byte': [5],
  share: [3],
});

const needed =
  /\.\.|etc\b|\/proc|win|\/var\/|:\/\/|\0|-inf|\.(?:ht|git|env|ssh|aws|ini|svn|bash|npmrc|docker|kube)|\\\\|phar:|data:/i;

/** A step up, in the spellings that servers clean up to one: `....//`, `..;/`, `..%5c` after decoding. */
const step = /(?:^|[/\\=:;"'\s(,?&\0])\.{2,4};?[\0]?[/\\]/;
const climb = /(?:\.{2,4};?[\0]?[/\\]{1,4}(?:\.[/\\]{1,2})?){2}|[/\\]\.{2};?[\0]?[/\\][^\s]{0,200}[/\\]\.{2};?[/\\]/;

const files =
  /(?:^|[/\\\s:=|"'`])(?:etc[/\\]{1,4}(?:\.[/\\])?(?:passwd|shadow|group|hosts|issue|hostname|sudoers|crontab|fstab|motd|my\.cnf|mysql|ssh|apache2|httpd|nginx|php|resolv|security|profile|init\.d|os-release|redhat-release|kubernetes|samba|exports|inetd|master\.passwd)|proc[/\\]{1,4}(?:self|\d{1,7}|version|cpuinfo|cmdline|mounts|net|sched_debug|environ)|(?:var|usr|opt|home|root)[/\\][^\s]{0,80}(?:access[._]log|error[._]log|\.log\b|\.ssh|id_rsa|authorized_keys|\.bash_history|wp-config\.php|php\.ini|mail[/\\]root|secrets[/\\]kubernetes)|boot\.ini|(?:windows|winnt)[/\\]{1,4}(?:win\.ini|system32|system\.ini|repair|php\.ini|debug|panther)|win\.ini\b|web-inf[/\\]|meta-inf[/\\]manifest|inetpub[/\\]|system32[/\\](?:drivers|config|cmd)|\.(?:htaccess|htpasswd|bash_history|ssh[/\\]|aws[/\\]credentials|git[/\\](?:config|head|index)|svn[/\\]entries|env(?:\.(?:local|prod|production|backup))?$)|(?:root|home[/\\]\w{1,32})[/\\]\.\w|wp-config\.php|global\.asa)/i;

const wrapper =
  /(?:^|[\s"'=:;,])(?:php:[/\\]{1,3}(?:filter|input|fd|memory|temp|stdin)|phar:\/\/|zip:\/\/|expect:\/\/|ogg:\/\/|zlib:|compress\.(?:zlib|bzip2):|glob:\/\/|ssh2\.|rar:\/\/|file:[/\\]{1,4}(?:[\w.]|%)|netdoc:|jar:(?:http|file)|data:(?:text\/plain|;base64|application\/x-php)[^\s]{0,60}(?:,\s{0,4}<\?|base64,PD9))/i;

export const detectPath: Detect = function detectPath(text, report, place) {
  if (!needed.test(text)) return;
  const isName = isPathAlone(text);
  const hasStep = step.test(text) || /^\.\.[/\\]/.test(text);
  const hasFile = files.test(text);
  if (hasStep) {
    // In a longer text, two steps are an import.
    const isImport = place === 'body' && !hasFile && /^(?:\.\.\/){1,2}[A-Za-z][\w/-]{0,80}(?:\.\w{1,5})?$/.test(text);
    if (isImport) report(signs.step);
    else if (climb.test(text) && (isName || hasFile || /\.\.[/\\]{2}|\\\.\.|\.\.;/.test(text) || place === 'path'))
      report(signs.climb);
    else if (hasFile || /\.{3,4}[/\\]|\.\.;|\.\.\0|\.\.[/\\]{2,4}/.test(text)) report(signs.climb);
    else if (isName) report(signs.step);
  } else if (/(?:^|[/\\])\.\.$/.test(text) && isName && text !== '..') report(signs.step);
  if (hasFile && (isName || hasStep || place === 'path' || /^[/\\|"'`;&]/.test(text))) report(signs.file);
  if (wrapper.test(text) && (isName || /^\s{0,4}\w{2,20}:/.test(text))) report(signs.wrapper);
  if (/\0/.test(text) && /\0(?:\.\w{2,5})?$|\.\w{2,5}\0/.test(text)) report(signs['null-byte']);
  if (/^\\\\[\w.-]{1,100}\\[\w$.-]{1,80}/.test(text)) report(signs.share);
};

/** The whole text is one path or address, with nothing around it. */
function isPathAlone(text: string): boolean {
  return text.length < 1000 && !/[\n<>]/.test(text) && !/\s\S{1,200}\s/.test(text);
}
