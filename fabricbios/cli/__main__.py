from fabricbios.cli.main import main

main()
