#compdef meshctl meshfsd meshfs
# Completion of meshctl, meshfsd and meshfs for zsh. `meshctl complete` knows which words may follow.

_meshfs() {
    local line word
    local -a found open
    for line in "${(@f)$(meshctl complete "${service:t}" -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        word=${line%%$'\t'*}
        if [[ $word == :files ]]; then
            _files
        elif [[ $word == *[=,] ]]; then
            open+=("${word//:/\\:}:${line#*$'\t'}")
        elif [[ -n $word ]]; then
            found+=("${word//:/\\:}:${line#*$'\t'}")
        fi
    done
    (( $#found )) && _describe -t words word found
    (( $#open )) && _describe -t words word open -S ''
}

_meshfs "$@"
