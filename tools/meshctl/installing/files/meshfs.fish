# Completion of PROGRAM for fish. `meshctl complete` knows which words may follow.

function __meshfs_complete_PROGRAM
    set -l words (commandline -opc) "$(commandline -ct)"
    for line in (meshctl complete PROGRAM -- $words[2..-1] 2>/dev/null)
        if string match -q -- ':files' $line
            __fish_complete_path "$(commandline -ct)"
        else
            printf '%s\n' $line
        end
    end
end

complete -c PROGRAM -f -k -a '(__meshfs_complete_PROGRAM)'
