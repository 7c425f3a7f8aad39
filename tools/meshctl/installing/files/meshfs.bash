# Completion of meshctl, meshfsd and meshfs for bash. `meshctl complete` knows which words may follow.

_meshfs() {
    local cur words cword line word
    _get_comp_words_by_ref -n =: cur words cword
    # readline replaces only the part of the word after the last = or :
    local kept=""
    [[ $cur == *[=:]* ]] && kept=${cur%"${cur##*[=:]}"}
    COMPREPLY=()
    while IFS= read -r line; do
        word=${line%%$'\t'*}
        if [[ $word == :files ]]; then
            cur=${cur#"$kept"}
            _filedir
        else
            [[ $word == *[=,] ]] && compopt -o nospace
            COMPREPLY+=("${word#"$kept"}")
        fi
    done < <(meshctl complete "${words[0]##*/}" -- "${words[@]:1:cword}" 2>/dev/null)
} && complete -F _meshfs meshctl meshfsd meshfs
