voice-call = Chamada de { $name }
video-call = Chamada de vídeo de { $name }
message =
    { $count ->
        [one] Mensagem de { $name }
       *[other] { $count } mensagens de { $name }
    }
missed-call =
    { $count ->
        [one] Chamada perdida de { $name }
       *[other] { $count } chamadas perdidas de { $name }
    }
contact-request = { $name } quer adicionar você aos contatos
voicemail =
    { $count ->
        [one] Mensagem de voz de { $name }
       *[other] { $count } mensagens de voz de { $name }
    }
file =
    { $count ->
        [one] { $name } está enviando um arquivo
       *[other] { $name } está enviando { $count } arquivos
    }
mail = E-mail de { $name }
self-test = A notificação de teste chegou
notice = Novidades de { $name }
shown-on = { $event } (exibido em { $device })
accept = Aceitar
decline = Recusar
