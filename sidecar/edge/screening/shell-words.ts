// Commands that attacks run, of POSIX systems and Windows.

const list = (text: string): ReadonlySet<string> => new Set(text.split(/\s+/));

/** Words that are no ordinary English: one of them behind a separator is a command. */
export const commands: ReadonlySet<string> = list(
  `ls whoami uname ifconfig ipconfig netstat wget curl nslookup traceroute tracert chmod chown chgrp rm mv cp ln
  mkdir rmdir nc ncat netcat telnet ssh scp sftp rsync tftp bash sh zsh ksh csh dash ash fish busybox perl python
  python2 python3 ruby php node lua awk gawk sed grep egrep fgrep xargs tac nl od xxd hexdump base64 base32 gzip
  gunzip tar zip unzip openssl gcc cc ps pwd hostname printenv getent lsb_release dmesg lsof passwd useradd adduser
  usermod groupadd su sudo crontab systemctl nohup mkfifo mknod socat iptables ip ss arp dig mysql psql sqlite3
  mysqldump redis-cli docker kubectl git svn apt apt-get yum dnf apk pip npm powershell pwsh cmd certutil bitsadmin
  wmic net netsh reg schtasks tasklist taskkill mshta rundll32 regsvr32 cscript wscript icacls attrib findstr
  systeminfo ver vol echo printf eval env rev ftp lynx fetch w3m nmap xterm tcpdump strace gdb vim vi nano ed ex
  halt reboot poweroff uptime df du lscpu lsblk umount stat readlink realpath mktemp dd shred locate msfvenom ping
  ping6 dir`,
);

/** Words of English as well: a command only with what looks like arguments, or alone after a separator. */
export const ambiguous: ReadonlySet<string> = list(
  `id who date time sleep type more less head tail sort cut find test kill exec source set export mail host
  last finger file touch which make join split look write wall at top free mount copy del move start call
  history alias command expr jobs watch nice paste strings users w groups dir env ping echo ver vol git net reg fetch ip
  stat locate node fish ash dash ed tee cat`,
);

/** Those that attacks run alone, to see whether they run. */
export const probes: ReadonlySet<string> =
  list(`id who w dir env set date users history net ver ping last jobs ls whoami ifconfig ipconfig netstat uname pwd ps
  hostname printenv systeminfo tasklist reboot halt poweroff uptime df lsblk lscpu lsof dmesg arp sh bash`);

/** The commands that begin lines of shared snippets: a text of such lines is no attack by itself. */
export const snippets =
  /^[\s$#>]{0,9}(?:npm|npx|yarn|pnpm|git|docker|cd|make|cmake|pip3?|cargo|go|kubectl|helm|brew|apt|apt-get|sudo apt|export|mkdir|tar|terraform|node|gradle|mvn|dotnet|source|grep)\s/;
