# Where the bash-completion package is not installed, these stand in for the two of its functions that are used below.
if ! declare -F _get_comp_words_by_ref >/dev/null; then
    # _get_comp_words_by_ref sets cur, prev, words and cword. Bash splits words at "=", ":" and "@"; this joins them again.
    _get_comp_words_by_ref() {
        local i last=-1 glue=
        words=()
        for ((i = 0; i <= COMP_CWORD; i++)); do
            if ((last > 0)) && [[ -n $glue || ${COMP_WORDS[i]} == [=:]* ]]; then
                words[last]+=${COMP_WORDS[i]}
            else
                words[++last]=${COMP_WORDS[i]}
            fi
            glue=
            [[ ${COMP_WORDS[i]} == *[=:@] && ${COMP_WORDS[i + 1]-} != "" ]] && glue=1
        done
        cword=$last cur=${words[last]} prev=
        ((last > 0)) && prev=${words[last - 1]}
        return 0
    }
    # __ltrim_colon_completions removes what bash has as an earlier word of the line, up to the last ":".
    __ltrim_colon_completions() {
        [[ $1 == *:* && $COMP_WORDBREAKS == *:* ]] || return 0
        local before=${1%"${1##*:}"} i
        for i in "${!COMPREPLY[@]}"; do
            COMPREPLY[i]=${COMPREPLY[i]#"$before"}
        done
    }
fi

