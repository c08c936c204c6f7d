#!/bin/sh
# Point the distribution's own package sources at a mirror of them:  apt_mirror.sh MIRROR [ROOT]
#
# Both forms that apt reads are understood: one line each (deb [options] ADDRESS SUITE ...) in *.list, and stanzas
# (URIs: ... Suites: ...) in *.sources. Only sources of the distribution's own suites (noble, noble-updates, ...)
# change; NVIDIA's, which the CUDA image brings along, stay what they are. Without a mirror nothing is done.
set -eu

mirror=$1
root=${2:-}
[ -n "$mirror" ] || exit 0
case $mirror in
*[[:space:]]*) echo "apt_mirror: APT_MIRROR='$mirror' is not one address" >&2 && exit 1 ;;
esac
# shellcheck source=/dev/null
suite=$(. "$root/etc/os-release" && echo "$VERSION_CODENAME")

# $1: file, the rest: awk's program
rewrite() {
    file=$1
    shift
    MIRROR=$mirror SUITE=$suite awk "$@" "$file" >"$file.new"
    cat "$file.new" >"$file" # keeps owner and mode
    rm "$file.new"
}

# shellcheck disable=SC2016 # the dollars below are awk's
ours='function ours(suite) { return suite == ENVIRON["SUITE"] || index(suite, ENVIRON["SUITE"] "-") == 1 }'

# shellcheck disable=SC2016
for file in "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/*.list; do
    [ ! -f "$file" ] || rewrite "$file" "$ours"'
        {
            line = $0
            if (match(line, /^[ \t]*deb(-src)?[ \t]+(\[[^]]*\][ \t]+)?/)) {
                head = substr(line, 1, RLENGTH)
                rest = substr(line, RLENGTH + 1)
                if (split(rest, word, /[ \t]+/) >= 2 && ours(word[2]))
                    line = head ENVIRON["MIRROR"] substr(rest, length(word[1]) + 1)
            }
            print line
        }'
done
# shellcheck disable=SC2016
for file in "$root"/etc/apt/sources.list.d/*.sources; do
    [ ! -f "$file" ] || rewrite "$file" "$ours"'
        function flush(    i, k, own, field, words) {
            for (i = 1; i <= n; i++) {
                if (stanza[i] !~ /^[ \t#]/) # a further line of a field is indented
                    field = tolower(substr(stanza[i], 1, index(stanza[i], ":") - 1))
                of[i] = field
                if (field == "suites") {
                    words = split(stanza[i], word, /[ \t:]+/)
                    for (k = 1; k <= words; k++)
                        own = own || ours(word[k])
                }
            }
            for (i = 1; i <= n; i++)
                if (!own || of[i] != "uris" || stanza[i] ~ /^#/)
                    print stanza[i]
                else if (stanza[i] !~ /^[ \t#]/)
                    print "URIs: " ENVIRON["MIRROR"]
            n = 0
        }
        /^[ \t]*$/ { flush(); print; next }
        { stanza[++n] = $0 }
        END { flush() }'
done
grep -rqsF -- "$mirror" "$root/etc/apt/sources.list" "$root/etc/apt/sources.list.d" || {
    echo "apt_mirror: no source of $suite in $root/etc/apt: APT_MIRROR has no effect" >&2
    exit 1
}
